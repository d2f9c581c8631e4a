//! The app's key and secret are replaced while everything goes on: the new pair is tried first, requests are signed with it
//! from then on, and each connection is replaced when another is certain of all that it has.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::api::{Api, Checked, Pair};
use super::credentials::Findings;
use super::links::Links;
use super::members::Members;
use super::metrics::RotationResult;
use super::moving::{Move, Order};
use super::settings::App;
use crate::metrics::Family;

/// Until a new pair that Pusher does not take is tried again: what was wrong may have been set right there.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Until it is tried again when no answer said anything.
const UNKNOWN_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// So often: not every server answers such a question. The connections then show what is right, and where there are none
/// the old key may be what stands in their way.
const UNKNOWN_MAX: u32 = 5;

/// What has to be told of new credentials.
pub struct Rotation {
    pub api: Arc<Api>,
    pub links: Links,
    pub members: Members,
    pub findings: Arc<Findings>,
    pub results: Family<RotationResult>,
    /// How long one question to the API may take.
    pub timeout: Duration,
}

impl Rotation {
    /// Puts the credentials of `app` in the place of those that are used, and returns when that is done. When this is
    /// dropped, what was not begun is not done.
    pub async fn to(&self, app: App, tls: Arc<rustls::ClientConfig>) {
        let pair = Arc::new(Pair::of(&app));
        let is_known = self.until_known(&pair).await;
        self.findings.rotated();
        if is_known {
            self.api.sign_by(pair.clone());
        }
        let (done, mut all) = mpsc::channel(1);
        let to = Move { app, tls, done };
        for link in self.links.all() {
            link.order(Order::Move(Box::new(to.clone())));
        }
        self.members.move_to(Box::new(to));
        // Whoever has done it drops it.
        let _ = all.recv().await;
        self.api.sign_by(pair);
        self.results.get(RotationResult::Done).increment(1);
        tracing::info!("the app's key was replaced: nothing uses the old one any more");
    }

    /// Waits until Pusher is known to take it. `false`: that cannot be known by asking.
    async fn until_known(&self, pair: &Pair) -> bool {
        let mut unknown = 0;
        let mut was_refused = false;
        loop {
            match self.api.check_pair(pair, self.timeout).await {
                Checked::Fine => return true,
                Checked::Misconfigured(what, why) => {
                    unknown = 0;
                    if !std::mem::replace(&mut was_refused, true) {
                        self.results.get(RotationResult::Refused).increment(1);
                        tracing::error!(
                            what = what.label(),
                            why,
                            "Pusher does not take the new key: the old one serves on"
                        );
                    }
                    self.findings.refused_rotation(what, why);
                    sleep(REFUSED_AGAIN_AFTER).await;
                }
                Checked::Unknown => {
                    unknown += 1;
                    if unknown >= UNKNOWN_MAX {
                        return false;
                    }
                    sleep(UNKNOWN_AGAIN_AFTER).await;
                }
            }
        }
    }
}
