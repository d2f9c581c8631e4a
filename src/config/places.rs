//! Where in the file each setting is: noted for those who ask, and for nobody else.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Place;

/// Lines, from 1, by keys such as `publish[0].event`.
type Lines = BTreeMap<String, usize>;

/// Where a file's keys are.
#[derive(Debug, Default)]
pub struct Places {
    file: Lines,
    routes: BTreeMap<String, Lines>,
}

impl Places {
    /// The line of a key outside of routes, `auth.keys[0]`; `None`: the file has it not.
    #[must_use]
    pub fn of_file(&self, key: &str) -> Option<usize> {
        self.file.get(key).copied()
    }

    /// The line of a route's key, `auth.permissions`, be it in its group or in the defaults; the route's own for `""`.
    /// `None`: the file has it not.
    #[must_use]
    pub fn of_route(&self, route: &str, key: &str) -> Option<usize> {
        self.routes.get(route)?.get(key).copied()
    }

    /// Notes what is outside of routes.
    pub(super) fn note_file(&mut self, text: &str, root: &DeTable<'_>) {
        walk(text, root, "", &mut self.file);
    }

    /// Notes a route at byte `start`, with all that it shares merged into it.
    pub(super) fn note_route(&mut self, text: &str, start: usize, merged: &DeTable<'_>) {
        let Some(DeValue::String(name)) = merged.get("name").map(Spanned::get_ref) else { return };
        let mut lines = Lines::from([(String::new(), Place::of(text, start).line)]);
        walk(text, merged, "", &mut lines);
        self.routes.insert(name.to_string(), lines);
    }
}

fn walk(text: &str, table: &DeTable<'_>, within: &str, lines: &mut Lines) {
    for (key, value) in table.iter() {
        let name = key.get_ref();
        let path = if within.is_empty() { name.to_string() } else { format!("{within}.{name}") };
        lines.insert(path.clone(), Place::of(text, key.span().start).line);
        look(text, value, &path, lines);
    }
}

fn look(text: &str, value: &Spanned<DeValue<'_>>, path: &str, lines: &mut Lines) {
    match value.get_ref() {
        DeValue::Table(inner) => walk(text, inner, path, lines),
        DeValue::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                let path = format!("{path}[{index}]");
                lines.insert(path.clone(), Place::of(text, item.span().start).line);
                look(text, item, &path, lines);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Source, load_with_places};

    #[test]
    fn a_key_is_where_its_route_its_group_or_the_defaults_have_it() {
        let text = r#"
[upstream]
app_id = "1"
key = "k"
secret = "s"
cluster = "eu"
[auth]
keys = [
  { algorithms = ["HS256"], secret = "0123456789abcdef0123456789abcdef" },
]
[dialects.d.in]
auth = { type = "auth" }
[dialects.d.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","c":{code}}'
[defaults]
dialect = "d"
limits.depth = 9
[groups.g]
limits.outbox_frames = 5
[groups.g.auth]
required = true
permissions = ["a", "b"]
[[routes]]
name = "r"
group = "g"
path = "/r"
channel = "r"
limits.message_bytes = 700
[[routes.publish]]
types = ["one"]
[[routes.publish]]
types = [
  "two",
]
"#;
        let source = Source { name: "routes.toml".into(), text: text.into() };
        let (_, places) = load_with_places(&source, &|_| None).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let line = |number: Option<usize>| number.map(|number| lines[number - 1]);
        for (key, expected) in [
            ("", "[[routes]]"),
            ("path", "path = \"/r\""),
            ("dialect", "dialect = \"d\""),
            ("limits.depth", "limits.depth = 9"),
            ("limits.outbox_frames", "limits.outbox_frames = 5"),
            ("limits.message_bytes", "limits.message_bytes = 700"),
            ("auth.permissions[1]", "permissions = [\"a\", \"b\"]"),
            ("publish[1]", "[[routes.publish]]"),
            ("publish[1].types[0]", "  \"two\","),
        ] {
            assert_eq!(line(places.of_route("r", key)), Some(expected), "{key}");
        }
        assert_ne!(places.of_route("r", "publish[0]"), places.of_route("r", "publish[1]"));
        assert!(line(places.of_file("auth.keys[0]")).unwrap().starts_with("  { algorithms"));
        assert_eq!(line(places.of_file("dialects.d.out.event")), Some(lines[13]));
        for missing in ["limits.subscriptions", "filter", "publish[2]"] {
            assert_eq!(places.of_route("r", missing), None, "{missing}");
        }
        assert_eq!((places.of_route("x", "path"), places.of_file("server")), (None, None));
    }
}
