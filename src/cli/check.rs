//! `check` and `schema`: what a routes file means, and what it may say.

use std::fmt::Write as _;

use super::{CheckArgs, Failure, load, print, print_err, process_env};
use crate::config;
use crate::config::diagnostics::Warning;
use crate::config::plan::Plan;

pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let loaded = load(&args.config.config, &process_env)?;
    let mut warnings = String::new();
    for variable in &loaded.missing {
        let _ = writeln!(
            warnings,
            "warning: {} is not set ({}, line {}): `serve` will need it",
            variable.name, variable.key, variable.line
        );
    }
    let untested = loaded.untested.iter().filter(|_| args.strict);
    for doubtful in loaded.warnings.iter().chain(untested) {
        let _ = write!(warnings, "{}", Warning(doubtful));
    }
    print_err(&warnings);
    if let Some(old) = &args.against {
        let old = load(old, &process_env)?;
        return print(&Plan::between(&old.config, &loaded.config).text(None));
    }
    print(&config::describe(&loaded.config))
}

pub(super) fn schema() -> Result<(), Failure> {
    let schema = serde_json::to_string_pretty(&config::json_schema()).map_err(Failure::runtime)?;
    print(&format!("{schema}\n"))
}
