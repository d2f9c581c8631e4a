//! The errors that a client is told.

use std::time::Duration;

use super::{Action, Machine};
use crate::clock::Now;
use crate::legacy::error::ErrorCode;

impl Machine {
    /// Tells the client an error; `details` is a JSON object.
    pub(super) fn error(&self, code: ErrorCode, details: Option<&str>, now: Now, out: &mut Vec<Action>) {
        if self.route.echo {
            return;
        }
        let own;
        let details = match (details, code) {
            (Some(details), _) => details,
            (None, ErrorCode::AuthRequired) => {
                own = self.auth_required_details();
                &own
            }
            (None, _) => "{}",
        };
        out.push(Action::Error(code, self.route.dialect.render_error(code, code.message(), details, now)));
    }

    pub(super) fn auth_error(
        &self,
        code: ErrorCode,
        wait: Option<Duration>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let (message, details) = match wait {
            Some(wait) => with_wait(code, wait),
            None => (code.message().to_owned(), "{}".to_owned()),
        };
        out.push(Action::Error(code, self.route.dialect.render_auth_error(code, &message, &details, now)));
    }

    /// The client is told how long to wait.
    pub(super) fn wait_error(&self, code: ErrorCode, wait: Duration, now: Now, out: &mut Vec<Action>) {
        let (message, details) = with_wait(code, wait);
        out.push(Action::Error(code, self.route.dialect.render_error(code, &message, &details, now)));
    }

    fn auth_required_details(&self) -> String {
        let permissions = self.route.auth.as_ref().map_or(&[][..], |auth| auth.permissions.as_slice());
        serde_json::json!({ "endpoint": self.endpoint, "required_permissions": permissions }).to_string()
    }
}

/// A message and details that tell the time to wait, in whole milliseconds, rounded up.
fn with_wait(code: ErrorCode, wait: Duration) -> (String, String) {
    let ms = wait.as_nanos().div_ceil(1_000_000);
    (format!("{}: wait {ms} ms", code.message()), format!("{{\"retry_after_ms\":{ms}}}"))
}
