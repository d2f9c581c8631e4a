//! Slow and hostile clients against the program itself, in a process of its own: what each attack gets, what it
//! costs in memory, and what everybody else notices meanwhile.
//!
//! Attacks run one after the other, so that each is measured alone:
//!
//!     cargo test --test hostile                       # all of them
//!     cargo test --test hostile fragments             # those with `fragments` in their name
//!     cargo test --release --test hostile -- --list   # their names
//!     cargo test --test hostile -- --fallback         # with requests passed on: nothing may get worse by that; and three attacks more
//!     cargo test --test hostile -- --tls              # by TLS, and two attacks more: on handshakes, and by records

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    unreachable_pub,
    dead_code,
    unused_imports
)]

#[path = "../e2e/support/mod.rs"]
mod support;

mod attacker;
mod behind;
mod bystanders;
mod frames;
mod handshakes;
mod process;
mod readers;
mod report;
mod requests;
mod runner;
mod scene;
mod stream;
mod tokens;

use std::process::ExitCode;

use runner::{Attack, attacks};

const ATTACKS: &[Attack] = attacks![
    requests::silent_connections,
    requests::half_requests,
    requests::a_byte_a_second,
    requests::headers_without_end,
    requests::other_protocols,
    requests::connect_and_reset,
    requests::refused_requests,
    requests::kept_connections,
    requests::pipelines,
    requests::all_descriptors,
    requests::neighbours_at_their_cap,
    tokens::never_authenticating,
    tokens::wrong_tokens,
    frames::ping_flood,
    frames::pong_flood,
    frames::empty_fragments,
    frames::fragments_without_end,
    frames::tiny_fragments,
    frames::partial_messages,
    frames::large_parts_held,
    frames::buffers_kept,
    frames::broken_frames,
    frames::json_bombs,
    frames::a_byte_a_second_in_frames,
    frames::tiny_echoes,
    readers::window_zero,
    readers::echoes_never_read,
    readers::a_byte_a_second_read,
    readers::subscription_storm,
    readers::closes_never_read,
];

/// Every attack above makes sense over TLS, too. These make none without.
const BY_TLS: &[Attack] = attacks![handshakes::unfinished_handshakes, handshakes::tiny_records];

/// And these where nothing is passed on.
const PASSED_ON: &[Attack] =
    attacks![behind::bodies_not_taken, behind::answers_not_read, behind::echoes_behind_not_read];

fn main() -> ExitCode {
    runner::run(ATTACKS, BY_TLS, PASSED_ON)
}
