//! The old clients' door: connections are accepted on one thread, dealt out to workers, and each request is
//! answered by an upgrade or by a refusal that says why.

pub mod answer;
pub mod forwarded;
pub mod presented;
mod spelling;
pub mod upgrade;
pub mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};

use self::worker::{Accepted, Admission};
use crate::admin::stopped;

/// Connections the kernel may hold that were not yet accepted.
const BACKLOG: u32 = 4096;
/// Pause after a failure to accept, such as being out of descriptors: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// The address is taken, or not this machine's.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket.listen(BACKLOG)?))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Accepts until `stop` is true, dealing connections out in turn.
    pub async fn run(
        self,
        workers: Vec<mpsc::Sender<Accepted>>,
        admission: Arc<Admission>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut turns = workers.iter().cycle();
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut stop) => return,
                accepted = self.0.accept() => accepted,
            };
            // Each connection is to be watched by its worker's runtime, not by this one.
            let accepted = accepted.and_then(|(stream, peer)| {
                stream.set_nodelay(true)?;
                Ok((stream.into_std()?, peer))
            });
            match accepted {
                Ok((stream, peer)) => {
                    // Above the hard limit there is not even room for saying no.
                    let Some((admitted, arrival)) = admission.admit(peer.ip()) else { continue };
                    if let Some(worker) = turns.next() {
                        let _ = worker.send(Accepted { stream, peer, admitted, arrival }).await;
                    }
                }
                Err(error) => {
                    admission.accept_failed(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
