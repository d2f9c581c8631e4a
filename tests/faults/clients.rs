//! Clients that break off.

use std::collections::BTreeMap;

use crate::account::Mark;
use crate::proxied::{Proxied, published};
use crate::stage::FAR;
use crate::support::Raw;
use crate::support::bridge::token_with;
use crate::support::patiently;
use crate::support::raw::{TEXT, frame};

/// Numbers that each of them sends before it breaks off in the next.
const WHOLE: u32 = 20;

/// Whole messages are carried, the cut one is not, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn cut_in_the_middle_of_a_frame() {
    let stage = Proxied::start("mid-frame", |launch| launch).await;
    let address = stage.run.served.address;
    let message = |n: u32| {
        let padding = "x".repeat(200);
        frame(TEXT, format!(r#"{{"type":"u{n}","data":{{"n":{n},"x":"{padding}"}}}}"#).as_bytes())
    };
    // Within the head, the mask, the payload, and before its last byte.
    let cuts = [1, 3, 6, 40, message(WHOLE + 1).len() - 1];
    let mut ends = BTreeMap::new();
    for (index, cut) in cuts.into_iter().enumerate() {
        for reset in [false, true] {
            let name = format!("cut{index}{reset}");
            let token = token_with("1", |claims| claims["exp"] = FAR.into());
            let mut client = Raw::login(address, &format!("/talk/{name}"), &token).await;
            for n in 1..=WHOLE {
                client.send(message(n)).await;
            }
            client.send(&message(WHOLE + 1)[..cut]).await;
            if reset {
                client.reset();
            } else {
                client.finish().await;
                client.ended().await;
            }
            ends.insert(format!("private-talk-{name}"), reset);
        }
    }
    // After an orderly end all has been read; a reset takes along what the kernel still held.
    let all_read = stage.sandbox.wait_for(|view| {
        let on = |channel: &str| view.published().filter(|published| published.channel == channel).count();
        ends.iter().all(|(channel, reset)| *reset || on(channel) == WHOLE as usize)
    });
    patiently("whole messages", all_read).await;
    stage.run.flow("afterwards", 20).await;
    for (channel, reset) in &ends {
        let marks = published(&stage.sandbox, channel);
        let expected: Vec<Mark> = (1..=WHOLE).map(Mark::Number).collect();
        assert!(expected.starts_with(&marks) && (*reset || marks == expected), "{channel} {marks:?}");
    }
    // `finish` would count the others' messages too.
    let Proxied { run, sandbox, .. } = stage;
    let others: usize = ends.keys().map(|channel| published(&sandbox, channel).len()).sum();
    let over =
        run.beside(others).finish("cut mid-frame", async |channel| Some(published(&sandbox, channel))).await;
    over.only(&[]);
    let cut = over.metrics.sum(r#"pusher_bridge_closes_total{route="talk",reason="lost"}"#);
    assert_eq!(cut as usize, ends.len());
}
