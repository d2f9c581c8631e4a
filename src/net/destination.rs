//! Pure: where requests are passed on to.

use std::fmt;

use super::host;

/// Scheme, host and port of an upstream. Paths pass as they are, so it has none.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    source: String,
    pub tls: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// `HOST:PORT`: what it is called in metrics and logs.
    pub name: String,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Destination {
    /// Reads `http://HOST[:PORT]` or `https://…`.
    ///
    /// # Errors
    /// What it should be.
    pub fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str = "must be http://HOST[:PORT] or https://HOST[:PORT]";
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(FORM.to_owned()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(format!("{FORM}: paths are passed on as they are"));
        }
        let parsed = host::authority(authority)?;
        let (host, port) = (parsed.host, parsed.port.unwrap_or(if tls { 443 } else { 80 }));
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        Ok(Self { source: url.to_owned(), tls, host: bare, port, name })
    }

    /// As the file has it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}
