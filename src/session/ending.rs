//! The end of a session: what it held is given back, and goodbye is said.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::Session;
use super::slots::{AddressSlot, UserSlots};
use crate::legacy::close::CloseReason;
use crate::text::loggable;
use crate::upstream::metrics::ReplyResult;
use crate::upstream::publisher::note_untold;
use crate::websocket::conn::{Conn, Notice};
use crate::websocket::outbox::encode_close;
use crate::websocket::reader::Reader;

/// How long a closing connection is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the close wait is extended while the client keeps reading.
const CLOSE_ROUNDS_MAX: usize = 10;

impl Session {
    /// Gives back what others wait for.
    pub(super) fn leave(&mut self) {
        self.context.forget(self.conn.id(), self.route.edition());
        for (_, ticket) in self.held.subscriptions.drain(..) {
            self.context.hub.detach(&ticket);
            self.record.channels.get_or_insert((ticket.channel().clone(), 0)).1 += 1;
        }
        for notice in self.conn.leave() {
            match notice {
                Notice::PublishFailed { code, .. } => note_untold(1, code),
                Notice::Reply { .. } => self.context.shared.publisher.replied(ReplyResult::SenderGone),
                _ => {}
            }
        }
        self.pending = None;
        self.held.slots = UserSlots::default();
        self.held.address_slot = AddressSlot::Uncounted;
        self.record.phase = None;
    }

    pub(super) fn summarise(&self, reason: CloseReason) {
        self.metrics.closes.get(reason).increment(1);
        let (frames_out, bytes_out) = self.conn.sent();
        tracing::info!(
            route = &*self.route.name,
            conn = self.conn.id().0,
            user = self.machine.user().map(loggable),
            client.address = %self.client.address,
            user_agent.original = &*self.client.user_agent,
            duration_ms = self.record.opened.elapsed().as_millis() as u64,
            frames_in = self.record.frames_in,
            bytes_in = self.record.bytes_in,
            frames_out,
            bytes_out,
            code = reason.code().or(self.record.close_code),
            reason = reason.label(),
            channel = self.record.channels.as_ref().map(|(channel, _)| &**channel),
            channels = self.record.channels.as_ref().map(|(_, count)| *count).filter(|count| *count > 1),
            "closed"
        );
    }
}

/// Says goodbye: the close frame, then the client's answer, both within bounds. tungstenite sends no close
/// frame for what it cannot read, so all of them come from here.
pub(super) async fn say_goodbye(conn: &Arc<Conn>, reader: &mut Reader, reason: CloseReason) {
    if let Some(code) = reason.code() {
        conn.finish(encode_close(code, reason.text()).into());
    }
    if reason != CloseReason::ByClient {
        reader.give_back();
    }
    if reason == CloseReason::Lost {
        return;
    }
    let flushed = std::future::poll_fn(|cx| Poll::Ready(conn.poll_flushed(cx).is_ready())).await;
    if reason == CloseReason::Overload && !flushed {
        // Its memory is wanted now.
        return;
    }
    tokio::select! {
        biased;
        () = std::future::poll_fn(|cx| conn.poll_evicted(cx)) => {}
        () = linger(conn, reader, reason) => {}
    }
}

/// Waits for the goodbye as long as the client goes on with it.
async fn linger(conn: &Arc<Conn>, reader: &mut Reader, reason: CloseReason) {
    for _ in 0..CLOSE_ROUNDS_MAX {
        let before = conn.taken_while_waiting();
        let over = timeout(CLOSE_TIMEOUT, goodbye(conn, reader, reason)).await.is_ok();
        if over || conn.taken_while_waiting() == before {
            return;
        }
    }
}

async fn goodbye(conn: &Arc<Conn>, reader: &mut Reader, reason: CloseReason) {
    if reason == CloseReason::ByClient {
        // Reading on lets tungstenite send its answer to the client's close.
        while std::future::poll_fn(|cx| reader.poll(cx)).await.is_ok() {}
    }
    std::future::poll_fn(|cx| conn.poll_flushed(cx)).await;
    conn.shut_write();
    if reason != CloseReason::ByClient {
        // Unread bytes would make the kernel reset the connection, and the close frame be lost with it.
        std::future::poll_fn(|cx| conn.poll_discard(cx)).await;
    }
}
