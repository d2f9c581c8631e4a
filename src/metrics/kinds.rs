//! What is told apart in labels, as enums.

/// Why a request was refused before or instead of its upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such path.
    UnknownPath,
    /// A path value no channel can hold.
    BadPath,
    /// No or another upgrade.
    UpgradeRequired,
    /// A malformed upgrade.
    Malformed,
    /// Origin not allowed.
    Origin,
    /// Too many connections from the address.
    AddressLimit,
    /// Too many connections at all.
    Overload,
    /// Past its sunset.
    Gone,
    /// Shutting down.
    Draining,
    /// No whole request came in time.
    Timeout,
    /// Not over when all connections were in use, and one of many of its address: a newcomer got its place.
    Displaced,
}

impl Refusal {
    pub(super) const ALL: [Self; 11] = [
        Self::UnknownPath,
        Self::BadPath,
        Self::UpgradeRequired,
        Self::Malformed,
        Self::Origin,
        Self::AddressLimit,
        Self::Overload,
        Self::Gone,
        Self::Draining,
        Self::Timeout,
        Self::Displaced,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown_path",
            Self::BadPath => "bad_path",
            Self::UpgradeRequired => "upgrade_required",
            Self::Malformed => "malformed",
            Self::Origin => "origin",
            Self::AddressLimit => "address_limit",
            Self::Overload => "overload",
            Self::Gone => "gone",
            Self::Draining => "draining",
            Self::Timeout => "timeout",
            Self::Displaced => "displaced",
        }
    }
}

/// What became of a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishResult {
    /// Accepted.
    Ok,
    /// Refused for good.
    Refused,
    /// Not accepted within its deadline.
    Expired,
    /// No room.
    QueueFull,
    /// A backend may have taken it, or not.
    Unknown,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnPhase {
    /// Its request is being read and answered.
    Handshake,
    /// Upgraded, not yet authenticated.
    Authenticating,
    /// In service.
    Live,
}
