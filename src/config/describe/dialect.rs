//! `[dialects.NAME]`

use super::{Lines, one_line};
use crate::legacy::dialect::{AuthMessage, Dialect};

pub(super) fn dialect(out: &mut Lines, dialect: &Dialect) {
    let Dialect {
        name,
        type_field,
        auth,
        subscribe,
        unsubscribe,
        pong,
        ping,
        keepalives,
        binary_is_json,
        subprotocols,
        out: frames,
        error_codes,
        reserved: _,
    } = dialect;
    out.heading(&format!("dialect {name}"));
    let mut messages = vec![format!("told apart by {type_field}")];
    if let Some(AuthMessage { message_type, token }) = auth {
        messages.push(format!("auth is {message_type:?} with {token}"));
    }
    for (what, message_type) in
        [("subscribe", subscribe), ("unsubscribe", unsubscribe), ("pong", pong), ("ping", ping)]
    {
        messages.extend(message_type.as_ref().map(|message_type| format!("{what} is {message_type:?}")));
    }
    messages.extend(keepalives.iter().map(|(text, answer)| {
        let answered =
            if answer.is_empty() { "not answered".to_owned() } else { format!("answered by {answer:?}") };
        format!("{text:?} is {answered}")
    }));
    if *binary_is_json {
        messages.push("binary messages are JSON".to_owned());
    }
    out.fact("in", messages.join("; "));
    for (label, frame) in frames.all() {
        out.fact(label, one_line(frame.source()));
    }
    if !error_codes.is_empty() {
        let renamed: Vec<String> =
            error_codes.iter().map(|(code, name)| format!("{} is {name:?}", code.as_str())).collect();
        out.fact("error codes", renamed.join("; "));
    }
    if !subprotocols.is_empty() {
        out.fact("subprotocols", subprotocols.join(", "));
    }
}
