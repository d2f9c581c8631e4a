//! `[[tests]]`, validated: what must become of requests, messages and events.

/// A test of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What it shows.
    pub name: String,
    /// Where it begins in the file.
    pub line: usize,
    /// What a client asks for: a path with its query, or a URL.
    pub url: String,
    /// What its token says, as JSON; `None`: it has no token.
    pub claims: Option<String>,
    /// The page that it is of.
    pub origin: Option<String>,
    /// When, Unix seconds; `None`: when it is run.
    pub at: Option<i64>,
    /// What the client sends before.
    pub send: Vec<String>,
    /// What the client sends.
    pub message: Option<String>,
    /// An event's name and data.
    pub event: Option<(String, String)>,
    /// The route that is asked.
    pub route: Option<String>,
    /// A channel that the client is subscribed to.
    pub channel: Option<String>,
    /// What comes of it.
    pub expected: Option<Expected>,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The client gets this.
    Frame(String),
    /// The message becomes this.
    Publish(Publish),
    /// It is refused, for this reason or with this code.
    Refusal(String),
    /// The old server of this URL gets it.
    Tunnel(String),
    /// Nothing comes, and nothing is published.
    Nothing,
}

/// What a message becomes, as far as it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// The event's channel.
    pub channel: Option<String>,
    /// The event's name.
    pub event: Option<String>,
    /// The event's data.
    pub data: Option<String>,
    /// The backend's URL.
    pub post: Option<String>,
    /// The body.
    pub body: Option<String>,
}

impl Test {
    /// The path of its URL.
    #[must_use]
    pub fn path(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/");
        path.split('?').next().unwrap_or(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_is_between_host_and_query() {
        for (url, path) in
            [("/ws/a?token=/x", "/ws/a"), ("ws://h:1/ws/a%20b?x", "/ws/a%20b"), ("wss://h", "/"), ("/", "/")]
        {
            let test = Test {
                name: String::new(),
                line: 1,
                url: url.to_owned(),
                claims: None,
                origin: None,
                at: None,
                send: Vec::new(),
                message: None,
                event: None,
                route: None,
                channel: None,
                expected: None,
            };
            assert_eq!(test.path(), path, "{url}");
        }
    }
}
