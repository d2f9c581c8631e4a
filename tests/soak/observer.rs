//! A client of the new world, straight at Pusher: it sees what the bridge publishes for old clients.

use std::rc::Rc;
use std::time::Duration;

use pusher_bridge::pusher::frame::{self, ServerFrame};
use pusher_bridge::pusher::sign;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ledger::Mark;
use crate::messages::Route;
use crate::support::raw::{TEXT, frame as client_frame, upgrade};
use crate::wire::Wire;
use crate::world::World;

/// Between two attempts to connect, while Pusher is being restarted.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Watches the plugins' channels, over and over, until dropped.
pub async fn watch(world: Rc<World>) {
    loop {
        // That Pusher ends is a fault of ours; what was published meanwhile it cannot have seen.
        let _ = connected(&world).await;
        world.outgoing.borrow_mut().observing(false);
        sleep(AGAIN_AFTER).await;
    }
}

async fn connected(world: &World) -> std::io::Result<()> {
    let app = &world.app;
    let mut wire = Wire::new(TcpStream::connect(world.upstream.get()).await?);
    wire.send(upgrade(&format!("/app/{}?protocol=7&client=soak&version=1.0", app.key), &[])).await?;
    wire.head().await?;
    let channels: Vec<&str> = world.streams_of(Route::Plugin).map(|stream| &*stream.channel).collect();
    let mut standing = 0;
    while let Some(frame) = wire.frame().await? {
        if frame.first != TEXT {
            continue;
        }
        match ServerFrame::decode(frame.text()) {
            Ok(ServerFrame::ConnectionEstablished { socket_id, .. }) => {
                for channel in &channels {
                    let auth = sign::channel_auth(&app.key, &app.secret, &socket_id, channel, None);
                    let subscribe = frame::subscribe(channel, Some(&auth), None);
                    wire.send(client_frame(TEXT, subscribe.as_bytes())).await?;
                }
            }
            Ok(ServerFrame::SubscriptionSucceeded { .. }) => {
                standing += 1;
                if standing == channels.len() {
                    world.outgoing.borrow_mut().observing(true);
                }
            }
            Ok(ServerFrame::Ping) => wire.send(client_frame(TEXT, frame::PONG.as_bytes())).await?,
            Ok(ServerFrame::Event { data, .. }) => {
                let data: String = data.and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
                if let Some(Mark::Message { from, n }) = world.recognise(&data, "observed at Pusher") {
                    world.check(world.outgoing.borrow_mut().observe(from, n));
                }
            }
            Ok(_) => {}
            Err(error) => world.wrong(format!("observed at Pusher: {error}")),
        }
    }
    Ok(())
}
