//! What rooms hand each other.

use std::sync::Arc;

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
    /// Whose subscription at Pusher it takes part in.
    pub via: Via,
    /// A frame to send in the very moment the subscription is confirmed, before any event.
    pub confirm: Option<String>,
}

/// Whose subscription at Pusher carries a client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// The one that all clients share.
    Shared,
    /// This member's own: all connections of one user share it, and nobody else.
    Member(Arc<Member>),
}

/// Somebody whom Pusher knows by name: a member of presence channels, and who is signed in on channels of his own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub named_by: NamedBy,
    pub user_id: Arc<str>,
    /// What other members are told of him: JSON.
    pub info: Option<Arc<str>>,
    /// What he is signed in with (`pusher:signin`), where a channel needs that: JSON.
    pub user_data: Option<Arc<str>>,
}

/// Who says who a member is: one id by two of them is two members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamedBy {
    /// A token, of this issuer where that is known.
    Token(Option<Arc<str>>),
    /// The configuration, and no token ever: it is this bridge itself.
    Bridge,
}

impl Member {
    /// What makes two of them one user.
    #[must_use]
    pub fn key(&self) -> MemberKey {
        MemberKey { named_by: self.named_by.clone(), user_id: self.user_id.clone() }
    }

    /// Whether the key is this one's.
    #[must_use]
    pub fn has_key(&self, key: &MemberKey) -> bool {
        self.user_id == key.user_id && self.named_by == key.named_by
    }
}

/// Who is one user, whatever is told of him.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberKey {
    pub named_by: NamedBy,
    pub user_id: Arc<str>,
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
