mod cases;
mod dense;
mod model;

use super::*;
use crate::clock::tests::now;

const SKEW: Duration = Duration::from_millis(250);
const CONFIRM: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_millis(500);

fn times() -> Times {
    Times { skew: SKEW, confirm: CONFIRM, settle: SETTLE }
}
