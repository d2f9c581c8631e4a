//! What a configuration means, for people: the resolved route table. No secret is in it.
//!
//! Settings are destructured without `..`: a key that is neither printed nor left out by name does not compile.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Config, mask};
use crate::legacy::dialect::Dialect;
use crate::limits::rate::Rate;
use crate::routes::route::Route;
use crate::routes::tunnel::TunnelRoute;
use crate::text::printable;

mod auth;
mod dialect;
mod endpoints;
mod fallback;
mod limits;
mod route;
mod server;
mod tunnel;
mod upstream;

/// Widest line.
const COLUMNS: usize = 110;
/// Where a fact begins, behind its label.
const INDENT: usize = 17;

/// The configuration as text: listening, upstream, tokens, the dialects that routes use, and every route with the keys
/// of its group and of the defaults merged into it.
#[must_use]
pub fn describe(config: &Config) -> String {
    let Config { server, admin, upstream, auth, endpoints, fallback, routes, tunnels, router: _, off } =
        config;
    let mut out = Lines(String::new());
    server::server(&mut out, server, admin);
    upstream::upstream(&mut out, upstream);
    if let Some(auth) = auth {
        auth::tokens(&mut out, auth);
    }
    endpoints::endpoints(&mut out, endpoints);
    if let Some(fallback) = fallback {
        fallback::fallback(&mut out, fallback);
    }
    let mut dialects: Vec<&Dialect> = Vec::new();
    for route in routes {
        if !dialects.iter().any(|dialect| dialect.name == route.dialect.name) {
            dialects.push(&route.dialect);
        }
    }
    dialects.into_iter().for_each(|dialect| dialect::dialect(&mut out, dialect));
    routes.iter().for_each(|route| route::route(&mut out, route));
    tunnels.iter().for_each(|route| tunnel::tunnel(&mut out, route));
    off.iter().for_each(|off| route::off(&mut out, off));
    out.0
}

/// A route's limits: the key of each, and what it says.
#[must_use]
pub fn limits(route: &Route) -> Vec<(&'static str, String)> {
    limits::facts(route)
}

/// The same of a route that an old server serves.
#[must_use]
pub fn tunnel_limits(route: &TunnelRoute) -> Vec<(&'static str, String)> {
    tunnel::facts(route)
}

/// The text so far: headings, and below them facts with their labels.
struct Lines(String);

impl Lines {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}");
    }

    /// One fact, wrapped at spaces; a word that is longer than a line is cut at the width.
    fn fact(&mut self, label: &str, text: impl AsRef<str>) {
        let width = COLUMNS - INDENT;
        let text = printable(text.as_ref());
        let mut lines: Vec<String> = vec![String::new()];
        for word in text.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            while !word.is_empty() {
                let Some(line) = lines.last_mut() else { break };
                let used = line.chars().count();
                let gap = usize::from(used > 0);
                if used + gap + word.len() <= width {
                    line.push_str(if gap == 1 { " " } else { "" });
                    line.extend(word.drain(..));
                } else if used == 0 {
                    line.extend(word.drain(..width));
                    lines.push(String::new());
                } else {
                    lines.push(String::new());
                }
            }
        }
        for (index, line) in lines.iter().filter(|line| !line.is_empty()).enumerate() {
            let label = if index == 0 { label } else { "" };
            let _ = writeln!(self.0, "  {label:<pad$}{line}", pad = INDENT - 2);
        }
    }

    /// Another fact under the last label.
    fn more(&mut self, text: impl AsRef<str>) {
        self.fact("", text);
    }
}

fn duration(value: Duration) -> String {
    let ms = value.as_millis();
    for (unit, each) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if ms != 0 && ms.is_multiple_of(each) {
            return format!("{}{unit}", ms / each);
        }
    }
    format!("{ms}ms")
}

fn rate(rate: Option<Rate>) -> String {
    rate.map_or_else(
        || "unlimited".to_owned(),
        |Rate { count, per, burst }| format!("{count} per {}, {burst} at once", duration(per)),
    )
}

/// A template of JSON on one line: within a string no line can end.
fn one_line(template: &str) -> String {
    template.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Names that often are URLs.
fn urls(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| mask::url(name.as_ref())).collect::<Vec<_>>().join(" or ")
}
