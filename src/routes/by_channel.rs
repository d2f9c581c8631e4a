//! Which routes a channel may be of.

use std::collections::HashMap;

use crate::template::Text;

/// Routes by how their channels begin, so that a name is tried against those only that it may be of.
#[derive(Debug, Default)]
pub struct ByChannel {
    /// Places among the routes, by the literal text before the first placeholder.
    places: HashMap<Box<str>, Vec<usize>>,
    /// How long those texts are, ascending.
    lengths: Vec<usize>,
}

impl ByChannel {
    /// Of these routes' channels, in their order.
    #[must_use]
    pub fn of<'r>(channels: impl Iterator<Item = &'r Text>) -> Self {
        let mut index = Self::default();
        for (place, channel) in channels.enumerate() {
            let prefix = channel.literal_prefix();
            index.places.entry(prefix.into()).or_default().push(place);
            index.lengths.push(prefix.len());
        }
        index.lengths.sort_unstable();
        index.lengths.dedup();
        index
    }

    /// The places of those whose channels may be `channel`, in order.
    #[must_use]
    pub fn of_channel(&self, channel: &str) -> Vec<usize> {
        let prefixes = self.lengths.iter().map_while(|length| channel.get(..*length));
        let found = prefixes.filter_map(|prefix| self.places.get(prefix)).flatten();
        let mut places: Vec<usize> = found.copied().collect();
        places.sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Allow;

    #[test]
    fn a_name_is_looked_for_where_it_may_be() {
        let names = ["x".to_owned()];
        let allow = Allow { subscribe: true, user: true, ..Allow::default() };
        let templates = ["a-{x}", "{subscribe.c}", "a", "a-b-{x}", "b-{x}", "a-{auth.user}", "a-b-c"];
        let texts = templates.map(|template| Text::parse(template, &names, allow).unwrap());
        let index = ByChannel::of(texts.iter());
        for (channel, places) in [
            ("a-b-c", &[0, 1, 3, 5, 6][..]),
            ("a", &[1, 2]),
            ("b-1", &[1, 4]),
            ("", &[1]),
            ("é", &[1]),
            ("a-", &[0, 1, 2, 5]),
        ] {
            let found = index.of_channel(channel);
            assert!(places.iter().all(|place| found.contains(place)), "{channel}: {found:?}");
            let may_be = |place: &usize| channel.starts_with(texts[*place].literal_prefix());
            assert!(found.iter().all(may_be) && found.is_sorted(), "{channel}: {found:?}");
        }
        assert!(ByChannel::default().of_channel("a").is_empty());
    }
}
