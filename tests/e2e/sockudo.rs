//! The core scenarios against a Pusher-compatible server that others wrote.

use crate::scenarios;
use crate::support::pusher::Pusher;
use crate::support::sockudo::Sockudo;

#[tokio::test(flavor = "multi_thread")]
async fn sockudo_relays_both_ways() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::relays_both_ways(&sockudo.app()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockudo_publishes_in_order() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::publishes_in_order(&sockudo.app()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockudo_isolates() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::isolates(&sockudo.app()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockudo_survives_a_restart() {
    if let Some(mut sockudo) = Sockudo::start().await {
        scenarios::survives_a_restart(&sockudo.app(), async || sockudo.restart().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockudo_carries_real_clients() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::carries_real_clients(&sockudo.app()).await;
    }
}
