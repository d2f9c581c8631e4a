//! What a reload would do: every key whose value changes is named by the plan, and comes under what it means for who is
//! connected. A walk over the JSON Schema puts sample values where each key is, as `check` does.

use std::collections::BTreeSet;

use pusher_bridge::config::plan::{Fate, Plan};
use pusher_bridge::config::{Config, Source, describe, load};

use crate::check::{BASE, SECRET, applies, prepare, samples};
use crate::keys::{Place, places, put};

/// So many values of each key.
const ENOUGH: usize = 4;

/// Keys whose change shows under other names: what they do is what is compared.
const SHOWN_AS: [(&str, &[&str]); 8] = [
    ("upstream.cluster", &["upstream.ws_host", "upstream.api_host"]),
    ("upstream.host", &["upstream.ws_host", "upstream.api_host"]),
    ("upstream.port", &["upstream.ws_port", "upstream.api_port"]),
    ("upstream.tls", &["upstream.ws_tls", "upstream.api_tls"]),
    ("upstream.path", &["upstream.ws_path", "upstream.api_path"]),
    ("auth.issuer", &["auth.keys"]),
    ("auth.audience", &["auth.keys"]),
    ("refusal_hold", &["refusal"]),
];

fn config(file: &toml::Value) -> Option<Config> {
    let source = Source { name: "routes.toml".into(), text: toml::to_string(file).unwrap() };
    load(&source, &|_| None).ok().map(|loaded| loaded.config)
}

/// The key as the plan would call it.
fn called(place: &Place) -> String {
    let names: Vec<&str> = place.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["routes", _, rest @ ..] => rest.join("."),
        ["dialects", _, rest @ ..] => format!("dialect.{}", rest.join(".")),
        all => all.join("."),
    }
}

/// All keys that it names; of a route that comes or goes, its name.
fn named(plan: &Plan) -> BTreeSet<String> {
    let mut all: BTreeSet<String> =
        plan.fixed.iter().chain(&plan.applied).map(|key| (*key).to_owned()).collect();
    for (_, fate) in &plan.routes {
        match fate {
            Fate::Unchanged => {}
            Fate::Adjusted(keys) => all.extend(keys.iter().map(|key| (*key).to_owned())),
            Fate::Replaced { why, also } => all.extend(why.iter().chain(also).map(|key| (*key).to_owned())),
            Fate::Removed | Fate::Added => _ = all.insert("name".to_owned()),
        }
    }
    all
}

fn is_named(key: &str, named: &BTreeSet<String>, unneeded: &mut BTreeSet<&str>) -> bool {
    let within = |name: &String| key == name || key.starts_with(&format!("{name}."));
    let shown = SHOWN_AS.iter().find(|(name, _)| *name == key);
    named.iter().any(within)
        || shown.is_some_and(|(name, shown)| {
            let is_shown = shown.iter().any(|name| named.contains(*name));
            if is_shown {
                unneeded.remove(name);
            }
            is_shown
        })
}

#[test]
fn every_change_of_every_key_is_in_the_plan_by_its_name() {
    let base: toml::Value = toml::Value::Table(toml::from_str(BASE).unwrap());
    let mut samples = samples();
    // What secrets may be, and what a secret must be.
    for text in [
        "fedcba9876543210fedcba9876543210",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ] {
        samples.push(text.into());
    }
    let (mut compared, mut wrong) = (0, Vec::new());
    let mut unneeded: BTreeSet<&str> = SHOWN_AS.iter().map(|(name, _)| *name).collect();
    for place in &places() {
        if place.last().is_some_and(|name| name == "enabled_with") {
            // One that is on however it is written is the same.
            continue;
        }
        let is_secret = place.iter().any(|name| SECRET.contains(&name.as_str()))
            || place.last().is_some_and(|name| name == "token") && place.contains(&"notify".to_owned());
        if !applies(place) && !is_secret {
            continue;
        }
        let what = called(place);
        let mut file = base.clone();
        prepare(&mut file, place);
        let with = |value: &toml::Value| {
            let mut file = file.clone();
            put(&mut file, place, value);
            config(&file)
        };
        let mut found: Vec<Config> = samples.iter().filter_map(with).take(ENOUGH).collect();
        if found.is_empty() {
            let lists = samples.iter().map(|value| toml::Value::Array(vec![value.clone()]));
            found = lists.filter_map(|list| with(&list)).take(ENOUGH).collect();
        }
        found.extend(config(&file));
        for pair in found.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let plan = Plan::between(before, after);
            assert!(Plan::between(before, before).is_nothing());
            assert_eq!(plan.is_nothing(), Plan::between(after, before).is_nothing(), "{what}");
            if is_named(&what, &named(&plan), &mut unneeded) {
                compared += 1;
            } else if describe(before) != describe(after) {
                wrong.push(format!("{what}: the plan says {:?}", named(&plan)));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unneeded.is_empty(), "in SHOWN_AS without need: {unneeded:?}");
    assert!(compared > 300, "{compared}");
}
