//! `explain`: what becomes of a request, a message and an event.

use super::judge::Judge;
use super::{ExplainArgs, Failure, Format, block_on, load_placed, moment, print, print_err, process_env};
use crate::explain::text::Text;
use crate::explain::{Explainer, Question};

pub(super) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let (loaded, places) = load_placed(&args.config.config, &process_env)?;
    for variable in loaded.missing.iter().filter(|missing| matters(&missing.key)) {
        print_err(&format!(
            "warning: {} is not set ({}, line {}): its name stands in for its value\n",
            variable.name, variable.key, variable.line
        ));
    }
    let now = moment(args.at.as_deref())?;
    let usage = |what: &str, why: &dyn std::fmt::Display| Failure::usage(format!("{what} {why}"));
    let mut question = Question::of(&args.url, args.origin.as_deref(), now)
        .map_err(|why| usage(if args.origin.is_some() { "the URL or origin" } else { "the URL" }, &why))?;
    for field in &args.header {
        question.add_header(field).map_err(|why| usage("a header", &why))?;
    }
    question.address = args.from;
    question.token.clone_from(&args.token);
    question.messages.clone_from(&args.message);
    question.event =
        args.event.clone().map(|name| (name, args.data.clone().unwrap_or_else(|| "{}".to_owned())));
    let explainer = Explainer::new(&loaded.config).with_places(&places);
    let answer = block_on(async {
        let mut judge = Judge::new(&loaded)?;
        judge.with(now, |verdict| explainer.answer(&question, verdict)).await
    })?;
    match args.format {
        Format::Text => {
            let file = args.config.config.display().to_string();
            print(&Text { answer: &answer, file: &file }.to_string())
        }
        Format::Json => {
            let text = serde_json::to_string_pretty(&answer).map_err(Failure::runtime)?;
            print(&format!("{text}\n"))
        }
    }
}

/// Whether what is told depends on the value of this key: not on how Pusher is reached, nor on keys of tokens, without
/// which none is judged.
fn matters(key: &str) -> bool {
    ["routes", "groups", "defaults", "dialects"].iter().any(|table| key.starts_with(table))
}
