//! Attacks on authentication: none, and wrong ones.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use tokio::io::AsyncWriteExt;

use crate::attacker::{address, close_code, frames, open, read_to_end, swarm, tally};
use crate::process::Metrics;
use crate::report::Row;
use crate::scene::{Verdict, shipped};
use crate::support::bridge::token;
use crate::support::raw::auth;

const PATH: &str = "/ws/content/gen_1";

/// As many connections as addresses may have, and no token.
pub async fn never_authenticating() -> Row {
    const COUNT: usize = 10_000;
    const PER_ADDRESS: usize = 50;
    let scene = shipped().auth_deadline("6s").open("never_authenticating").await;
    let to = scene.bridge.address;
    let attack = tokio::spawn(swarm(COUNT, move |n, turnstile| async move {
        let mut stream = turnstile.pass(open(address(n / PER_ADDRESS), to, PATH)).await;
        close_code(&read_to_end(&mut stream).await)
    }));
    let mut at_once = 0.0_f64;
    while !attack.is_finished() {
        let series = r#"pusher_bridge_connections{route="content",phase="authenticating"}"#;
        at_once = at_once.max(scene.bridge.metrics().await.get(series));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(tally(attack.await.unwrap())[&Some(1008)], COUNT);
    scene.bridge.until("closes", |m| m.closes("content", "auth_deadline") == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!(
                "{COUNT} upgrades from {} addresses and nothing else, {at_once} at once",
                COUNT / PER_ADDRESS
            ),
            bound_mib: 64,
            ended: "closed 1008 `auth_deadline` (6 s here)",
            closed_to_newcomers: false,
        })
        .await
}

/// Tokens of every wrong kind, as many as a connection takes, and then more.
pub async fn wrong_tokens() -> Row {
    const COUNT: usize = 1000;
    const PER_ADDRESS: usize = 50;
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().public_key_pem();
    let keys =
        format!("[[auth.keys]]\nalgorithms = [\"RS256\"]\npem = '''\n{key}'''\n\n[dialects.typed.in]\n");
    let setting = shipped().with("[dialects.typed.in]\n", &keys).auth_deadline("4s");
    let scene = setting.open("wrong_tokens").await;
    let to = scene.bridge.address;
    let part = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let claims = part(br#"{"sub":"1","exp":99999999999}"#);
    let signed = |algorithm: &str, signature: &[u8]| {
        let header = part(format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#).as_bytes());
        auth(&format!("{header}.{claims}.{}", part(signature)))
    };
    let good = token("1");
    let tokens = [
        signed("RS256", &[7; 256]),
        signed("HS256", &[7; 32]),
        signed("none", b""),
        auth(&format!("{}x", &good[..good.len() - 1])),
        auth(&"j".repeat(8192)),
    ];
    let more = [auth(&"j".repeat(60_000)), tokens[0].clone(), auth("")].concat().repeat(5);
    let bytes = Arc::new([tokens.concat(), more].concat());
    let codes = swarm(COUNT, move |n, turnstile| {
        let bytes = bytes.clone();
        async move {
            let mut stream = turnstile.pass(open(address(n / PER_ADDRESS), to, PATH)).await;
            let (mut reading, mut writing) = stream.split();
            // While its token waits to be judged, nothing more of it is read.
            let (answer, _) = tokio::join!(
                async {
                    let mut kept = Vec::new();
                    let _ = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut kept).await;
                    kept
                },
                writing.write_all(&bytes),
            );
            let told: Vec<_> = frames(&answer).iter().map(|(_, text)| text.to_vec()).collect();
            let only_errors = told[..told.len() - 1].iter().all(|text| {
                String::from_utf8_lossy(text).starts_with(r#"{"type":"auth_error","data":{"error":""#)
            });
            (close_code(&answer), only_errors)
        }
    })
    .await;
    assert_eq!(tally(codes)[&(Some(1008), true)], COUNT);
    let all = COUNT as f64;
    let closed = |m: &Metrics| [m.closes("content", "auth_failures"), m.closes("content", "auth_deadline")];
    let metrics = scene.bridge.until("closes", |m| closed(m).iter().sum::<f64>() == all).await;
    assert!(
        closed(&metrics)[0] >= all / 2.0,
        "most came from addresses with too many: {:?}",
        closed(&metrics)
    );
    let addresses = (COUNT / PER_ADDRESS) as f64;
    let judged = metrics.sum(r#"pusher_bridge_auth_total{route="content""#);
    assert!(judged >= 20.0 * addresses, "{judged} tokens were judged");
    assert_eq!(metrics.tokens("content", "accepted"), 0.0);
    for result in ["bad_signature", "unsupported_algorithm", "malformed"] {
        assert!(metrics.tokens("content", result) > 0.0, "{result}");
    }
    scene
        .over(Verdict {
            sent: format!("20 wrong tokens on each of {COUNT} connections from {addresses} addresses, two keys to try"),
            bound_mib: 48,
            ended: "each judged 1 s late beyond 20 of an address; 1008 `auth_failures` or `auth_deadline` (4 s here)",
            closed_to_newcomers: false,
        })
        .await
}
