//! What a link is told, and what it does.

use std::sync::Arc;
use std::time::Duration;

use crate::pusher::encryption::Undecryptable;
use crate::upstream::delivery::{Delivery, Event, Sent};
use crate::upstream::hubs::Hubs;
use crate::upstream::lane::Item;
use crate::upstream::link::client_events::{ClientEvent, Fate};
use crate::upstream::lost::End;
use crate::upstream::members::pool::FromLink;
use crate::upstream::refused::Refused;

/// Something a link is told by hubs and the publisher.
#[derive(Debug)]
pub enum Command {
    /// The hub has its first subscriber of the channel.
    Subscribe(Arc<str>, usize),
    /// The hub's last subscriber of the channel is gone.
    Unsubscribe(Arc<str>, usize),
    /// A hub was told that the connection is lost, and says how many are subscribed to each of its channels.
    Subscribers(Vec<(Arc<str>, usize)>),
    /// A client's event is to leave over this connection; its channel is the lane's.
    ClientEvent(Box<Item<ClientEvent>>),
    /// A publishing request begins: said where there is a standby. Its number at each side comes with it, and the side
    /// whose connection is excluded.
    Begun { flight: u64, sides: [u64; 2], excluded: Option<usize>, batch: Vec<Arc<Sent>> },
    /// A publishing request has ended.
    Ended {
        flight: u64,
        /// What Pusher accepted of it, in order: to be delivered to this bridge's own clients.
        accepted: Vec<Arc<Sent>>,
    },
    /// As whom a user's own link subscribes to the channel: its `channel_data`, which is signed.
    Introduce { channel: Arc<str>, data: Arc<str> },
    /// Its user is to be signed in with this `user_data`.
    SignIn(Arc<str>),
    /// It may dial: the answer to [`Report::AsksToDial`].
    Dial,
    /// Whether it leaves events to other links, as long as they are quicker.
    BeLazy(bool),
    /// A user's own link is to connect anew, by other credentials.
    Reconnect,
}

/// Something that a user's own link tells the pool beside what links tell hubs.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    AsksToDial,
    /// The sign-in is refused, for now; `channel` waits for it.
    SignInRefused {
        channel: Option<Arc<str>>,
        code: Option<u16>,
        why: String,
    },
    /// A backend wants this user's connections closed. It does not dial again.
    Terminated,
    /// More watchlist events came before the user's channel was confirmed than are kept.
    WatchlistEventLost,
}

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Connect. The outcome comes by [`super::Machine::connected`] or [`super::Machine::ended`].
    Dial,
    /// Drop the connection, or the attempt.
    HangUp,
    Send(Frame),
    /// Publish an event on this channel. The outcome comes by [`super::Machine::probed`].
    PublishProbe(Arc<str>),
    /// Hand this to each of these hubs.
    Tell(Hubs, Delivery),
    /// Hand this to the hubs that want its channel: while the connection is replaced, and it is no copy.
    Deliver(Arc<Event>),
    /// Tell the sender of a client event what became of it.
    Settle(ClientEvent, Fate),
    /// Tell this to the pool, as a user's own link.
    TellPool(FromLink),
    /// The same.
    Report(Report),
    /// Note this in metrics and log.
    Note(Note),
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub enum Frame {
    /// `pusher:ping`
    Ping,
    /// `pusher:pong`
    Pong,
    /// `pusher:subscribe`
    Subscribe(Arc<str>),
    /// `pusher:subscribe`, with this `channel_data`
    SubscribeAs(Arc<str>, Arc<str>),
    /// `pusher:signin`, with this `user_data`
    SignIn(Arc<str>),
    /// `pusher:unsubscribe`
    Unsubscribe(Arc<str>),
    /// A client event; its data leaves as a string, for some servers print objects anew and change digits.
    ClientEvent(Arc<Sent>),
}

/// Something that somebody may want to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// Events of so many channels may be missed until they are confirmed again.
    Missing(usize),
    /// There is no connection, for this reason; the next attempt comes after this time.
    Ended(End, Duration),
    /// A subscription was refused, with this text, or not answered.
    SubscriptionFailed { channel: Arc<str>, why: Refused, text: Option<String> },
    /// Pusher had forgotten this subscription: events may have been missed.
    Forgotten(Arc<str>),
    /// Pusher reports an error that is about nothing known here.
    Error(Option<u16>, String),
    /// Pusher did not take a client event, with this text.
    ClientEventRefused(String),
    /// An event on a channel that nobody is subscribed to.
    Unwanted { channel: String, event: String },
    /// An event of an encrypted channel that could not be decrypted.
    Undecryptable { channel: Arc<str>, event: String, why: Undecryptable },
    /// An event without a channel.
    WithoutChannel,
    /// The last event of a cache channel, sent anew, which its clients have.
    HadAlready,
    /// What a client published is delivered to this bridge's own.
    Local,
}
