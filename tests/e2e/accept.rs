//! Accepting: workers do it in turn, and stay even.

use futures_util::future::join_all;

use crate::support::bridge::SHIPPED;
use crate::support::{Bridge, OldClient, patiently};

const WORKERS: usize = 3;

/// Tasks of each worker's thread: a connection is one.
fn tasks(bridge: &Bridge) -> [f64; WORKERS] {
    std::array::from_fn(|n| bridge.metric(&format!("pusher_bridge_tasks{{thread=\"worker-{n}\"}}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_have_equally_many_connections() {
    let bridge = Bridge::with(SHIPPED, |config| config.server.workers = WORKERS).await;
    // Each has its hub, its pulse, and who waits for the drain, once it has begun.
    let begun = || tasks(&bridge).into_iter().all(|count| count >= 3.0);
    patiently("the workers", bridge.sees(begun)).await;
    let before = tasks(&bridge);
    let loads = || {
        let now = tasks(&bridge);
        let loads: [f64; WORKERS] = std::array::from_fn(|n| now[n] - before[n]);
        let (least, most) =
            (loads.into_iter().fold(f64::MAX, f64::min), loads.into_iter().fold(0.0, f64::max));
        (loads.iter().sum::<f64>(), most - least)
    };
    let count = async |connections: f64| {
        let what = format!("{connections} connections");
        patiently(&what, bridge.sees(|| loads().0 == connections)).await;
    };
    let mut clients: Vec<OldClient> = Vec::new();
    for n in 1..=20 {
        clients.push(bridge.connect("/ws/native").await);
        count(f64::from(n)).await;
        assert!(loads().1 <= 1.0, "{n}: {:?}", tasks(&bridge));
    }
    // All at once, and where others have left.
    clients.truncate(5);
    count(5.0).await;
    clients.extend(join_all((0..25).map(|_| bridge.connect("/ws/native"))).await);
    count(30.0).await;
    assert!(loads().1 <= 1.0, "{:?}", tasks(&bridge));
}
