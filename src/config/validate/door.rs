//! What a route asks of a request: its origin and its subprotocols.

use crate::config::problems::Problems;
use crate::config::scalars::At;
use crate::routes::origins::Origins;

/// `None`: any origin.
pub(super) fn origins(problems: &mut Problems<'_>, raw: Option<&Vec<At<String>>>) -> Option<Origins> {
    let mut out = Vec::new();
    for origin in raw? {
        match Origins::check(origin.get()) {
            Ok(origin) => out.push(origin),
            Err(why) => problems.with_help(
                origin.span(),
                why,
                "a scheme and a host, no path: \"https://app.example.com\", \"https://*.example.com\"; or \"null\", \
                 \"file://\", \"capacitor://localhost\"",
            ),
        }
    }
    Some(Origins::new(out))
}

/// Names of subprotocols: tokens (RFC 6455 §4.1), each once.
pub(super) fn subprotocols(
    problems: &mut Problems<'_>,
    raw: Option<&Vec<At<String>>>,
) -> Option<Vec<String>> {
    let mut out: Vec<String> = Vec::new();
    for name in raw? {
        if !is_token(name.get()) {
            problems.at(
                name.span(),
                format!(
                    "`{}` cannot name a subprotocol: letters, digits and `!#$%&'*+.^_|~-` can, and a backtick",
                    name.get()
                ),
            );
        } else if out.contains(name.get()) {
            problems.at(name.span(), format!("`{}` is listed twice", name.get()));
        }
        out.push(name.get().clone());
    }
    Some(out)
}

/// A token of HTTP (RFC 9110 §5.6.2).
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b))
}
