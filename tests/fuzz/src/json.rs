//! serde_json's `Value` as the oracle for what the product reads out of JSON text without parsing it into one.

use serde_json::Value;

/// What serde_json makes of `text`.
pub(crate) enum Read {
    Value(Value),
    /// JSON all the same, with something that `Value` cannot hold and raw text can: an unpaired surrogate, a
    /// number beyond `f64`, nesting deeper than serde_json's 127. What comes after it was not looked at.
    Beyond,
    NotJson,
}

pub(crate) fn read(text: &str) -> Read {
    const BEYOND: [&str; 4] = [
        "lone leading surrogate in hex escape",
        "unexpected end of hex escape",
        "number out of range",
        "recursion limit exceeded",
    ];
    match serde_json::from_str(text) {
        Ok(value) => Read::Value(value),
        Err(error) if BEYOND.iter().any(|beyond| error.to_string().starts_with(beyond)) => Read::Beyond,
        Err(_) => Read::NotJson,
    }
}

/// The value, when it is JSON as far as serde_json can tell and it can hold it.
pub(crate) fn value(text: &str) -> Option<Value> {
    match read(text) {
        Read::Value(value) => Some(value),
        Read::Beyond | Read::NotJson => None,
    }
}

pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[track_caller]
pub(crate) fn assert_json(text: &str) {
    assert!(!matches!(read(text), Read::NotJson), "not JSON: {text}");
}

/// Whether `part` is a piece of `whole` itself, not a copy.
pub(crate) fn lies_in(part: &str, whole: &str) -> bool {
    let (part, whole) = (part.as_bytes().as_ptr_range(), whole.as_bytes().as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

/// What the JSON string `token` says, in UTF-16 as JavaScript has it, with U+FFFD for each unpaired surrogate.
pub(crate) fn utf16_lossy(token: &str) -> String {
    let mut units = Vec::new();
    let mut chars = token[1..token.len() - 1].chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            units.extend(c.encode_utf16(&mut [0; 2]).iter());
            continue;
        }
        units.push(match chars.next().unwrap() {
            'u' => {
                let hex: String = chars.by_ref().take(4).collect();
                u16::from_str_radix(&hex, 16).unwrap()
            }
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            plain => plain as u16,
        });
    }
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
