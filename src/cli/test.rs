//! `test`: whether what the file expects is what happens.

use std::fmt::Write as _;

use super::{Failure, TestArgs, load, print, process_env};
use crate::clock::Now;
use crate::explain::Explainer;
use crate::explain::expect::{TestResult, run as run_test};
use crate::text::printable;

pub(super) fn run(args: &TestArgs) -> Result<(), Failure> {
    let loaded = load(&args.config.config, &process_env)?;
    let file = args.config.config.display().to_string();
    let (config, now) = (&loaded.config, Now::read());
    let explainer = Explainer::new(config);
    let wanted = |name: &str| args.name.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let (mut passed, mut failed, mut skipped, mut out) = (0_usize, 0_usize, 0_usize, String::new());
    for test in loaded.tests.iter().filter(|test| wanted(&test.name)) {
        let name = printable(&test.name);
        let _ = match run_test(&explainer, config, test, now) {
            TestResult::Passed => {
                passed += 1;
                writeln!(out, "ok       {name}")
            }
            TestResult::Skipped(route) => {
                skipped += 1;
                writeln!(out, "skipped  {name}: the route `{route}` is off")
            }
            TestResult::Failed(differences) => {
                failed += 1;
                let _ = writeln!(out, "FAILED   {name}  {}:{}", printable(&file), test.line);
                differences.iter().try_for_each(|difference| write!(out, "{difference}"))
            }
        };
    }
    let counted = match (passed + failed + skipped, &args.name) {
        (0, Some(part)) => format!("no test has `{}` in its name", printable(part)),
        (0, None) => format!("{} has no [[tests]]", printable(&file)),
        _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
    };
    print(&format!("{out}\n{counted}\n"))?;
    match failed {
        // The differences are told already.
        0 => Ok(()),
        _ => Err(Failure { message: String::new(), code: super::EXIT_FAILURE }),
    }
}
