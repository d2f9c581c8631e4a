//! Accepting. Each worker accepts its own connections, so that none is handed from thread to thread; one at a time
//! does, the one with fewest (`turns`), or all would wake for each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot, watch};

use super::admission::{Admission, Counted};
use super::connection;
use super::turns::Loads;
use super::worker::Worker;
use crate::admin::stopped;

/// Connections the kernel may hold that were not yet accepted.
const BACKLOG: u32 = 4096;
/// Pause after a failure to accept, such as being out of descriptors: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Newcomers that are taken before those in service have their turn.
const ACCEPTED_AT_ONCE_MAX: usize = 8;

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

    /// One that is bound already, and listens.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn of(listener: std::net::TcpListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self(TcpListener::from_std(listener)?))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The turn to accept: whoever has it has the listener.
pub struct Turn {
    /// Watched by a copy: should that fail, it is not lost.
    listener: std::net::TcpListener,
    _listening: oneshot::Sender<()>,
}

impl Turn {
    /// The first turn; the receiver resolves, with an error, when nobody listens any more.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn first(listener: Listener) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (listening, ended) = oneshot::channel();
        Ok((Self { listener: listener.0.into_std()?, _listening: listening }, ended))
    }
}

/// What the workers share to accept in turn.
pub struct Accepting {
    admission: Admission,
    loads: Loads,
    workers: Vec<mpsc::Sender<Turn>>,
}

impl Accepting {
    /// For so many workers; each gets one of the receivers.
    #[must_use]
    pub fn new(admission: Admission, workers: usize) -> (Arc<Self>, Vec<mpsc::Receiver<Turn>>) {
        // There is one turn.
        let (senders, receivers) = (0..workers).map(|_| mpsc::channel(1)).unzip();
        (Arc::new(Self { admission, loads: Loads::new(workers), workers: senders }), receivers)
    }

    /// Gives the turn to a worker; it comes back when that has ended.
    pub fn pass(&self, turn: Turn, to: usize) -> Option<Turn> {
        match self.workers.get(to) {
            Some(worker) => worker.try_send(turn).err().map(mpsc::error::TrySendError::into_inner),
            None => Some(turn),
        }
    }

    /// Accepts for `worker`, the `index`th, whenever it has the turn, until `stop` is true. Each connection holds
    /// `alive`.
    pub async fn run(
        &self,
        worker: &Arc<Worker>,
        index: usize,
        mut turns: mpsc::Receiver<Turn>,
        mut stop: watch::Receiver<bool>,
        alive: mpsc::Sender<()>,
    ) {
        let accepting = async {
            while let Some(mut turn) = turns.recv().await {
                loop {
                    let next = self.accept(worker, index, &turn, &alive).await;
                    match self.pass(turn, next) {
                        None => break,
                        Some(back) => turn = back,
                    }
                }
            }
        };
        // With the future of the other goes the turn, if this worker has it, and nobody listens any more.
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = accepting => {}
        }
    }

    /// Accepts until it is another's turn, which is the answer.
    async fn accept(
        &self,
        worker: &Arc<Worker>,
        index: usize,
        turn: &Turn,
        alive: &mpsc::Sender<()>,
    ) -> usize {
        let listener = loop {
            match turn.listener.try_clone().and_then(TcpListener::from_std) {
                Ok(listener) => break listener,
                Err(error) => self.failed(&error).await,
            }
        };
        let mut accepted = 0;
        loop {
            let one = listener.accept().await.and_then(|(stream, peer)| {
                stream.set_nodelay(true)?;
                Ok((stream, peer))
            });
            accepted += 1;
            match one {
                Ok((stream, peer)) => {
                    // Above the hard limit there is not even room for saying no.
                    if let Some((admitted, arrival)) = self.admission.admit(peer.ip()) {
                        let counted = Counted { admitted, load: self.loads.add(index), alive: alive.clone() };
                        tokio::spawn(connection::serve(worker.clone(), stream, peer, counted, arrival));
                    }
                    if let Some(next) = self.loads.next(index, accepted) {
                        return next;
                    }
                }
                Err(error) => self.failed(&error).await,
            }
            if accepted.is_multiple_of(ACCEPTED_AT_ONCE_MAX) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn failed(&self, error: &std::io::Error) {
        self.admission.accept_failed(error);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
