//! The core scenarios against a Pusher-compatible server that others wrote.

use crate::near_and_far;
use crate::scenarios;
use crate::support::network::{Kind, Proxy};
use crate::support::pusher::{App, Pusher};
use crate::support::sockudo::Sockudo;

near_and_far!(sockudo_relays_both_ways);
async fn sockudo_relays_both_ways() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::relays_both_ways(&sockudo.app()).await;
    }
}

near_and_far!(sockudo_publishes_in_order);
async fn sockudo_publishes_in_order() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::publishes_in_order(&sockudo.app()).await;
    }
}

near_and_far!(sockudo_isolates);
async fn sockudo_isolates() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::isolates(&sockudo.app()).await;
    }
}

near_and_far!(sockudo_survives_a_restart);
async fn sockudo_survives_a_restart() {
    if let Some(mut sockudo) = Sockudo::start().await {
        scenarios::survives_a_restart(&sockudo.app(), async || sockudo.restart().await).await;
    }
}

near_and_far!(sockudo_gives_late_joiners_the_last_event);
async fn sockudo_gives_late_joiners_the_last_event() {
    if let Some(sockudo) = Sockudo::start().await {
        let proxy = Proxy::start(sockudo.app().address).await;
        let app = App { address: proxy.address, ..sockudo.app() };
        let lose_links = async || assert_eq!(proxy.cut_all_of(Kind::Link), 1);
        scenarios::late_joiners_get_the_last_event(&app, lose_links).await;
    }
}

near_and_far!(sockudo_carries_real_clients);
async fn sockudo_carries_real_clients() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::carries_real_clients(&sockudo.app()).await;
    }
}

#[tokio::test]
async fn sockudo_carries_every_row() {
    if let Some(sockudo) = Sockudo::start().await {
        scenarios::carries_every_row(&sockudo.app(), "sockudo").await;
    }
}
