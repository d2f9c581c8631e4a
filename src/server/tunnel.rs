//! A request for a route that an old server goes on serving: let in by the same rules as any other, and then asked for
//! there.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Version;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use super::answer::{Meeting, from};
use super::gate::{admit, passable, upgradable};
use super::refusal::{ExplainedRefusal, Refusal};
use super::respond::add_deprecation;
use super::upgrade::{NotUpgradable, check, for_http1};
use super::worker::Worker;
use crate::http::server::{Answer, Progress};
use crate::limits::address::one_client;
use crate::limits::slots::Acquire;
use crate::proxy::metrics::Failure;
use crate::proxy::routed::{Place, Routed, Visitor};
use crate::proxy::serve::{Passed, ask};
use crate::routes::entrance::Entrance;
use crate::routes::path::{BadValue, PathValues};
use crate::routes::tunnelled::{Inside, TunnelState};
use crate::session::slots::{Holder, Key, Slot};

/// A request for such a route.
pub(super) struct Asked<'r> {
    pub(super) route: &'r Arc<TunnelState>,
    pub(super) values: Result<PathValues, BadValue>,
    pub(super) peer: IpAddr,
    /// Its connection is beyond those there may be.
    pub(super) over: bool,
}

/// Answers it: by what the old server says, or by a refusal.
pub(super) async fn tunnel(
    worker: &Worker,
    Asked { route, values, peer, over }: Asked<'_>,
    (request, body): (Parts, Incoming),
    progress: &Arc<Progress>,
) -> (Answer, Option<Routed>) {
    let entrance = route.rules().entrance();
    let met = Meeting::of(worker, (route.id(), entrance), &request.headers, peer, over);
    let place = match place(worker, route, &met, &request, values, progress) {
        Ok(place) => place,
        Err(explained) => return (met.refuse(worker, &explained), None),
    };
    let from = from(worker, &request.headers, peer);
    let mut request = request;
    if request.version == Version::HTTP_2
        && let Err(NotUpgradable::Malformed(why) | NotUpgradable::UpgradeRequired(why)) =
            for_http1(&mut request, std::array::from_fn(|_| fastrand::u8(..)))
    {
        return (met.refuse(worker, &Refusal::Malformed.because(why)), None);
    }
    let fallback = worker.door.tunnels.load_full();
    let to = &route.rules().to;
    match ask(&fallback, &worker.pool, to, (request, body), from, progress).await {
        Ok(Passed::Upgraded(mut answer, tunnel)) => {
            add_deprecation(&mut answer, entrance.deprecation);
            let visitor = Visitor { address: met.address, user_agent: met.user_agent };
            (answer, Some(Routed { tunnel, place, visitor }))
        }
        Ok(Passed::Answered(mut answer)) => {
            add_deprecation(&mut answer, entrance.deprecation);
            met.note_refused(worker, Refusal::Declined, Refusal::Declined.text(), answer.status());
            (answer, None)
        }
        // A route has a server.
        Ok(Passed::Nowhere) => (met.refuse(worker, &Refusal::ServerDown.into()), None),
        Err((failure, why)) => (met.refuse(worker, &refusal(failure).because(why)), None),
    }
}

/// Whether the request is let in, and its place then.
fn place(
    worker: &Worker,
    route: &Arc<TunnelState>,
    met: &Meeting<'_>,
    request: &Parts,
    values: Result<PathValues, BadValue>,
    progress: &Progress,
) -> Result<Place, ExplainedRefusal> {
    upgradable(values, check(request))?;
    admit(met.facts)?;
    passable(request.uri.path())?;
    if request.version != Version::HTTP_2 && !progress.is_strict() {
        return Err(Refusal::Outdated.into());
    }
    let slot = address_slot(worker, &met.entrance, met.address)?;
    let inside: Inside = route.enter().ok_or(Refusal::Overload)?;
    Ok(Place { inside, slot })
}

/// A slot among those of the address. There is nothing to probe those by that hold one: whoever comes when all are held is
/// refused at once.
fn address_slot(
    worker: &Worker,
    entrance: &Entrance<'_>,
    address: IpAddr,
) -> Result<Option<Slot<Key<IpAddr>>>, Refusal> {
    let Some(max) = entrance.connections_per_address else { return Ok(None) };
    let shared = &worker.context.shared;
    let key = (entrance.scope.clone(), one_client(address, shared.ipv6_prefix));
    match shared.address_slots.acquire(&key, max, Holder::default()) {
        Acquire::Granted(slot) => Ok(Some(slot)),
        Acquire::Full { .. } => Err(Refusal::AddressLimit),
    }
}

/// What the client is told where the old server has said nothing.
const fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Malformed => Refusal::Malformed,
        Failure::ConnectTimeout | Failure::AnswerTimeout => Refusal::ServerLate,
        _ => Refusal::ServerDown,
    }
}
