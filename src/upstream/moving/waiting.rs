//! What is said while it is decided which connection is read from. It is done behind that, in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::upstream::link::machine::Command;

/// At most two commands of each hub for a channel, and clients' events, which those bound that send them.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    commands: BTreeMap<u64, Command>,
    next: u64,
    /// How many there are of each channel.
    channels: HashMap<Arc<str>, usize>,
    /// A hub's subscription that no later word of that hub is about.
    subscriptions: HashMap<(Arc<str>, usize), u64>,
    client_events: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Whether anything waits of this channel: what comes of it waits behind that.
    pub(super) fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    pub(super) const fn has_client_events(&self) -> bool {
        self.client_events > 0
    }

    /// What takes back a subscription that waits goes with that.
    pub(super) fn push(&mut self, command: Command) {
        if let Command::Unsubscribe(channel, hub) = &command
            && let Some(taken_back) = self.subscriptions.remove(&(channel.clone(), *hub))
        {
            self.commands.remove(&taken_back);
            return self.leave(channel);
        }
        self.next += 1;
        if let Command::Subscribe(channel, hub) = &command {
            self.subscriptions.insert((channel.clone(), *hub), self.next);
        }
        self.client_events += usize::from(matches!(command, Command::ClientEvent(_)));
        if let Some(channel) = channel_of(&command) {
            *self.channels.entry(channel.clone()).or_default() += 1;
        }
        self.commands.insert(self.next, command);
    }

    /// All of it, in order.
    pub(super) fn take(&mut self) -> Vec<Command> {
        std::mem::take(self).commands.into_values().collect()
    }

    fn leave(&mut self, channel: &Arc<str>) {
        let Some(count) = self.channels.get_mut(channel) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.channels.remove(channel);
        }
    }
}

const fn channel_of(command: &Command) -> Option<&Arc<str>> {
    match command {
        Command::Subscribe(channel, _) | Command::Unsubscribe(channel, _) => Some(channel),
        Command::ClientEvent(item) => Some(&item.channel),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(channel: &str, hub: usize) -> Command {
        Command::Subscribe(channel.into(), hub)
    }

    fn unsubscribe(channel: &str, hub: usize) -> Command {
        Command::Unsubscribe(channel.into(), hub)
    }

    fn shown(waiting: &mut Waiting) -> Vec<String> {
        let show = |command| match command {
            Command::Subscribe(channel, hub) => format!("+{channel}{hub}"),
            Command::Unsubscribe(channel, hub) => format!("-{channel}{hub}"),
            other => format!("{other:?}"),
        };
        waiting.take().into_iter().map(show).collect()
    }

    #[test]
    fn it_is_done_in_order_and_once() {
        let mut waiting = Waiting::default();
        for command in [subscribe("b", 0), unsubscribe("a", 1), subscribe("a", 0)] {
            waiting.push(command);
        }
        assert!(waiting.has("a") && waiting.has("b") && !waiting.has("c") && !waiting.is_empty());
        assert_eq!(shown(&mut waiting), ["+b0", "-a1", "+a0"]);
        assert!(waiting.is_empty() && !waiting.has("a") && !waiting.has_client_events());
    }

    #[test]
    fn whoever_comes_and_goes_leaves_nothing_that_waits() {
        let mut waiting = Waiting::default();
        for _ in 0..1000 {
            waiting.push(subscribe("a", 0));
            waiting.push(unsubscribe("a", 0));
        }
        assert!(waiting.is_empty() && !waiting.has("a"));
        waiting.push(unsubscribe("a", 0));
        waiting.push(subscribe("a", 1));
        for _ in 0..1000 {
            waiting.push(subscribe("a", 0));
            waiting.push(unsubscribe("a", 0));
        }
        waiting.push(subscribe("a", 0));
        assert_eq!(shown(&mut waiting), ["-a0", "+a1", "+a0"], "the first is of who came before");
    }
}
