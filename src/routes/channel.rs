//! Pure: the names that a route's channel can have. Each is of the kind that the file chose; whoever fills the template
//! in must not choose another by what he writes.

use std::borrow::Cow;

use super::route::{Listed, Route};
use crate::legacy::error::ErrorCode;
use crate::pusher::channel::{USER_PREFIX, check_channel, kind_prefix, user_of};
use crate::template::{Choice, Known, Text, Var};

/// Why a template has no channel with these values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChannel {
    /// A value is missing, or the name is not legal.
    Illegal,
    /// It would be a channel of this kind, which is not the template's.
    Kind(&'static str),
}

impl NoChannel {
    /// What a client is told whose values make no channel.
    #[must_use]
    pub const fn error_code(self) -> ErrorCode {
        match self {
            Self::Illegal => ErrorCode::InvalidField,
            Self::Kind(_) => ErrorCode::ChannelKind,
        }
    }
}

/// What a template's names begin with: its literal text, with each listed value that comes first; and whether that is
/// the whole name.
#[must_use]
pub fn begins(channel: &Text, listed: &[Listed]) -> Vec<(String, bool)> {
    begins_with(channel, listed, |_| None)
}

/// The same, of those that begin with values that are known.
fn begins_with<'a>(
    channel: &Text,
    listed: &[Listed],
    known: impl Fn(&Var) -> Option<Cow<'a, str>>,
) -> Vec<(String, bool)> {
    let first = channel.vars().next();
    let list = first.and_then(|first| match first {
        Var::Subscribe(field) => listed.iter().find(|(name, _)| name == field),
        _ => None,
    });
    let (Some(first), Some((_, choices))) = (first, list) else {
        return vec![channel.beginning(|_| Known::Nothing)];
    };
    let value = known(first);
    let possible = choices.iter().filter(|choice| value.as_ref().is_none_or(|value| choice.fits(value)));
    let begin = |choice: &Choice| {
        channel.beginning(|var| match choice.more() {
            _ if var != first => Known::Nothing,
            None => Known::Whole(Cow::Borrowed(choice.begin())),
            Some(_) => Known::Begin(choice.begin()),
        })
    };
    possible.map(begin).collect()
}

/// The channel that `channel` is with these values.
///
/// # Errors
/// There is none that is legal and of the template's kind.
pub fn fill<'a>(
    channel: &Text,
    listed: &[Listed],
    lookup: impl Fn(&Var) -> Option<Cow<'a, str>>,
) -> Result<String, NoChannel> {
    let name = channel.fill(&lookup).ok_or(NoChannel::Illegal)?;
    // Only the file says whether it is a user's own: what is filled in never begins a name with `#`.
    let own = user_of(&name).filter(|_| channel.literal_prefix() == USER_PREFIX);
    check_channel(own.unwrap_or(&name)).map_err(|_| NoChannel::Illegal)?;
    let kind = kind_prefix(&name);
    let is_kind = |(begin, _): &(String, bool)| kind_prefix(begin) == kind;
    if begins_with(channel, listed, lookup).iter().any(is_kind) {
        Ok(name)
    } else {
        Err(NoChannel::Kind(kind))
    }
}

impl Route {
    /// The route's channel with these values.
    ///
    /// # Errors
    /// As [`fill`].
    pub fn channel_with<'a>(
        &self,
        lookup: impl Fn(&Var) -> Option<Cow<'a, str>>,
    ) -> Result<String, NoChannel> {
        fill(&self.channel, &self.subscribe_values, lookup)
    }

    /// The kind, which is not the route's, that its channel has with as much as is known; `None`: it is the route's yet.
    pub fn other_kind<'a>(&self, known: impl Fn(&Var) -> Option<Cow<'a, str>>) -> Option<&'static str> {
        known(self.channel.vars().next()?)?;
        let (begin, _) = self.channel.beginning(|var| known(var).map_or(Known::Nothing, Known::Whole));
        let kind = kind_prefix(&begin);
        let begins = begins_with(&self.channel, &self.subscribe_values, known);
        (!begins.iter().any(|(begin, _)| kind_prefix(begin) == kind)).then_some(kind)
    }
}

#[cfg(test)]
mod tests;
