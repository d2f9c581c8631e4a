//! What rooms hand each other.

/// A connection's number, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// A number of a link to Pusher, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

#[derive(Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The machine's number for it.
    pub id: u32,
    /// The Pusher channel.
    pub channel: String,
    pub interest: Interest,
    /// A frame to send in the very moment the subscription is confirmed, before any event.
    pub confirm: Option<String>,
}

/// Which events of a channel a subscription is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    All,
    /// Those whose filtered field has this value.
    Value(String),
    /// None yet: the channel is held, for a value to be chosen in band.
    Hold,
}
