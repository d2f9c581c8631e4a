//! Pure: an answer for people.

use std::fmt::{self, Write as _};

use crate::explain::answer::{
    Answer, Check, CheckResult, Effect, EventResult, Fate, Outcome, Outgoing, Published, Subscription,
    Target, Wanted,
};
use crate::text::printable;

/// Where what is said begins, behind its label.
const INDENT: usize = 15;
/// Where a line of the file is told.
const LINE_COLUMN: usize = 100;

/// An answer as text, with the lines of this file.
pub struct Text<'a> {
    pub answer: &'a Answer,
    /// The file's name.
    pub file: &'a str,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Lines { file: self.file, text: String::new() };
        out.answer(self.answer);
        f.write_str(&out.text)
    }
}

struct Lines<'a> {
    file: &'a str,
    text: String,
}

impl Lines<'_> {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "\n{}", printable(text));
    }

    /// What is said behind its label, and the line of the file where it stands.
    fn fact(&mut self, label: &str, text: &str, line: Option<usize>) {
        let said = format!("  {label:<pad$}{}", printable(text), pad = INDENT - 2);
        let _ = match line {
            Some(line) => {
                let pad = LINE_COLUMN.saturating_sub(said.chars().count() + 2);
                writeln!(self.text, "{said}  {:pad$}{}:{line}", "", printable(self.file))
            }
            None => writeln!(self.text, "{said}"),
        };
    }

    fn answer(&mut self, answer: &Answer) {
        let _ = writeln!(self.text, "{}", printable(&answer.path));
        match &answer.target {
            Target::Route { name, path: _, line } => self.fact("route", name, *line),
            Target::Tunnel { name, path: _, to, line } => {
                self.fact("route", name, *line);
                self.fact("tunnel", &format!("to {to}, which goes on serving it"), None);
            }
            Target::Health => self.fact("is", "the `health_path`, for load balancers", None),
            Target::Endpoint { what, line } => {
                self.fact("is", &format!("the endpoint `{what}`, for new clients and backends"), *line);
            }
            Target::Fallback { to, rule, line } => {
                let rule = rule.as_ref().map(|path| format!(", by the rule for {path}"));
                let rule = rule.unwrap_or_default();
                self.fact("is", &format!("no route's: it is passed on to {to}{rule}"), *line);
            }
            Target::Off { route, variables } => {
                let why = match variables.as_slice() {
                    [] => "its `enabled_with` is empty".to_owned(),
                    all => format!("{} has no value", all.join(", ")),
                };
                self.fact("route", &format!("none: `{route}` is off, as {why}"), None);
            }
            Target::Nothing { nearest } => {
                let nearest = nearest.as_ref().map(|path| format!("; the nearest is {path}"));
                self.fact("route", &format!("none has this path{}", nearest.unwrap_or_default()), None);
            }
        }
        for value in &answer.values {
            self.fact(&format!("{{{}}}", value.name), &value.value, None);
        }
        if let Some(channel) = &answer.channel {
            self.fact("channel", channel, None);
        }
        if let Some(client) = &answer.client {
            let proxy = match client.is_trusted_proxy {
                true => ": a trusted proxy, whose forwarding header would name the client",
                false => "",
            };
            self.fact("from", &format!("{}, counted as {}{proxy}", client.address, client.counts_as), None);
        }
        if let Some(deprecation) = &answer.deprecation {
            self.fact("phase", deprecation.phase, deprecation.line);
            for (name, value) in &deprecation.headers {
                self.fact("", &format!("{name}: {value}"), None);
            }
        }
        if !answer.checks.is_empty() {
            self.heading("checks");
            answer.checks.iter().for_each(|check| self.check(check));
        }
        self.outcome(answer);
        for step in &answer.steps {
            if let Some(sent) = &step.sent {
                self.heading(&format!("> {sent}"));
            }
            step.effects.iter().for_each(|effect| self.effect(effect));
        }
        for result in &answer.event {
            self.event(result);
        }
        if !answer.limits.is_empty() {
            self.heading("limits");
            for limit in &answer.limits {
                let default = if limit.line.is_none() { " (default)" } else { "" };
                self.fact("", &format!("{}{default}", limit.what), limit.line);
            }
        }
    }

    fn check(&mut self, check: &Check) {
        let verdict = match check.verdict {
            CheckResult::Passed => "ok",
            CheckResult::Failed => "FAILED",
            CheckResult::Open => "open",
        };
        self.fact(verdict, &format!("{}: {}", check.key, check.found), check.line);
    }

    fn outcome(&mut self, answer: &Answer) {
        self.heading("outcome");
        match &answer.outcome {
            Outcome::NotAWebSocket => self.fact("answered", "by HTTP", None),
            Outcome::Refused { reason, status, why } => {
                let status = status.map_or_else(|| "a close".to_owned(), |status| status.to_string());
                self.fact("refused", &format!("with {status}, {why} ({reason})"), None);
            }
            Outcome::ToldByFrame { code } => {
                self.fact("refused", &format!("by a frame on an open connection: {code}"), None);
            }
            Outcome::PassedOn => self.fact("passed on", "what the old server says is the answer", None),
            Outcome::Upgraded => {
                let live =
                    if answer.is_live { "upgraded, and in service" } else { "upgraded, and not in service" };
                self.fact("connection", live, None);
            }
        }
    }

    fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Frame { text } => self.fact("<", text, None),
            Effect::Error { code, text } => {
                self.fact("error", code, None);
                self.fact("<", text, None);
            }
            Effect::Token { result, why } => {
                let why = why.as_ref().map(|why| format!(": {why}"));
                self.fact("token", &format!("{result}{}", why.unwrap_or_default()), None);
            }
            Effect::Subscribed(subscription) => self.subscribed(subscription),
            Effect::Unsubscribed { channel } => self.fact("unsubscribed", channel, None),
            Effect::Published(published) => self.published(published),
            Effect::Echoed { text } => self.fact("< (echo)", text, None),
            Effect::Closed { reason, code, text } => {
                let code = code.map_or_else(String::new, |code| format!("{code} "));
                self.fact("closed", &format!("{code}{text} ({reason})"), None);
            }
        }
    }

    fn subscribed(&mut self, Subscription { channel, events, member }: &Subscription) {
        let events = match events {
            Wanted::All => String::new(),
            Wanted::With { field, value } => format!(", events whose {field} is {value}"),
            Wanted::None => ", no events before a value is chosen".to_owned(),
        };
        let member = member.as_ref().map(|member| format!(", as the member {member}"));
        self.fact("subscribed", &format!("{channel}{events}{}", member.unwrap_or_default()), None);
    }

    fn published(&mut self, published: &Published) {
        let Published { what, rule: _, line, neighbours_see } = published;
        match what {
            Outgoing::Event { channel, event, data, skip_if_empty } => {
                let spared = if *skip_if_empty { ", unless nobody is subscribed" } else { "" };
                self.fact("published", &format!("{event} on {channel}, by the API{spared}"), *line);
                self.fact("data", data, None);
            }
            Outgoing::ClientEvent { channel, event, data, member } => {
                let member = member.as_ref().map(|member| format!(", by the connection of {member}"));
                let member = member.unwrap_or_default();
                self.fact("published", &format!("{event} on {channel}, as a client event{member}"), *line);
                self.fact("data", data, None);
            }
            Outgoing::Post { url, body, headers, replies } => {
                let url = crate::config::masked_url(url);
                let replies = if *replies { ", and its answer goes back" } else { "" };
                self.fact("posted", &format!("{url}{replies}"), *line);
                if !headers.is_empty() {
                    self.fact("headers", &headers.join(", "), None);
                }
                self.fact("body", body, None);
            }
            Outgoing::Nothing => self.fact("dropped", "it is counted, and its sender is not told", *line),
        }
        if let Some(frame) = neighbours_see {
            self.fact("others see", frame, None);
        }
    }

    fn event(&mut self, result: &EventResult) {
        let EventResult { channel, by_client, fate, rule: _, line } = result;
        let by = if *by_client { ", which counts as a client's" } else { "" };
        self.heading(&format!("event on {channel}{by}"));
        match fate {
            Fate::Frame { text } => self.fact("<", text, *line),
            Fate::Dropped => self.fact("nothing", "a rule drops it", *line),
            Fate::NotForClient { field, value } => {
                let value = value.as_ref().map_or_else(|| "nothing".to_owned(), |value| format!("`{value}`"));
                self.fact("nothing", &format!("it is for others: its {field} is {value}"), *line);
            }
            Fate::PushersOwn => self.fact("nothing", "events by such names are Pusher's own", *line),
        }
    }
}
