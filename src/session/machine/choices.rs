//! What a client's `subscribe` or `unsubscribe` names.

use super::Machine;
use crate::json::{self, Object};
use crate::legacy::error::ErrorCode;
use crate::routes::channel::NoChannel;
use crate::template::Var;

/// Longest value of a filter, in bytes.
const FILTER_VALUE_BYTES_MAX: usize = 256;

/// A channel and, where the filter's value is chosen too, that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) channel: String,
    pub(super) value: Option<String>,
}

/// An error with the details that say which field.
type Wrong = (ErrorCode, String);

impl Machine {
    /// All that the message names: where the channel is chosen, one or a list of them, which must all be right.
    pub(super) fn choices(&self, object: &Object<'_>) -> Result<Vec<Choice>, Wrong> {
        if !self.route.channel_is_chosen() && !self.route.filter_is_chosen() {
            return Err((ErrorCode::UnknownType, "{}".to_owned()));
        }
        let field = self.route.channel.subscribe_field();
        let list = field.and_then(|field| object.at(field)).and_then(json::elements);
        match list {
            None => Ok(vec![self.choice(object, None)?]),
            Some(list) if list.is_empty() => Err(wrong(ErrorCode::InvalidField, field.unwrap_or_default())),
            Some(list) if list.len() > self.route.limits.subscriptions_max => {
                Err((ErrorCode::TooManySubscriptions, "{}".to_owned()))
            }
            Some(list) => list.into_iter().map(|element| self.choice(object, Some(element))).collect(),
        }
    }

    /// One, with this JSON in place of the channel's field, or the message's own.
    fn choice(&self, object: &Object<'_>, element: Option<&str>) -> Result<Choice, Wrong> {
        let own = self.route.channel.subscribe_field();
        let raw = |field: &str| match element {
            Some(element) if own == Some(field) => Some(element),
            _ => object.at(field),
        };
        let filter = self.route.filter.as_ref();
        let fields = [own, filter.and_then(|filter| filter.equals.subscribe_field())];
        for field in fields.into_iter().flatten() {
            self.check_field(field, raw(field))?;
        }
        let invalid = || (ErrorCode::InvalidField, "{}".to_owned());
        let lookup = |var: &Var| match var {
            Var::Subscribe(field) => json::scalar(raw(field)?),
            var => self.value_of(var, Some(object)),
        };
        let channel = self.route.channel_with(lookup).map_err(|why| match why {
            NoChannel::Illegal => invalid(),
            NoChannel::Kind(_) => wrong(why.error_code(), own.unwrap_or_default()),
        })?;
        let value = filter.map(|filter| filter.equals.fill(lookup).ok_or_else(invalid)).transpose()?;
        if value.as_ref().is_some_and(|value| value.len() > FILTER_VALUE_BYTES_MAX) {
            return Err(invalid());
        }
        Ok(Choice { channel, value })
    }

    fn check_field(&self, field: &str, raw: Option<&str>) -> Result<(), Wrong> {
        let value = raw.and_then(json::scalar);
        let excluded = self.route.value_sets.not_of_field(field);
        if value.as_ref().is_some_and(|value| excluded.iter().any(|not| not.fits(value))) {
            return Err(wrong(ErrorCode::ValueExcluded, field));
        }
        let allowed = self.route.subscribe_values.iter().find(|(name, _)| name == field);
        let accepted = value.is_some_and(|value| self.route.takes_in_band(field, &value));
        match allowed {
            _ if accepted => Ok(()),
            None => Err(wrong(ErrorCode::InvalidField, field)),
            Some((_, choices)) => {
                let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
                let details = serde_json::json!({ "field": field, "allowed": choices });
                Err((ErrorCode::InvalidField, details.to_string()))
            }
        }
    }
}

fn wrong(code: ErrorCode, field: &str) -> Wrong {
    (code, serde_json::json!({ "field": field }).to_string())
}
