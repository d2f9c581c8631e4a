//! A route: its path, its rules, and what becomes of its clients' messages.

pub mod by_channel;
pub mod change;
pub mod channel;
pub mod demands;
pub mod edition;
pub mod entrance;
pub mod events;
pub mod generation;
pub mod membership;
pub mod origins;
pub mod path;
pub mod publish;
pub mod route;
pub mod tunnel;
pub mod tunnelled;
