use super::*;
use proptest::prelude::*;

type Plain = Table<usize, u32, u32>;

const A: LinkId = LinkId(0);
const B: LinkId = LinkId(1);

fn value(v: &str) -> Interest {
    Interest::Value(v.to_owned())
}

fn receivers(table: &Plain, channel: &str, route: usize, value: Option<&str>) -> Vec<u32> {
    of_route(table.channel(A, channel), route, value)
}

fn of_route(channel: Option<&Channel<usize, u32, u32>>, route: usize, value: Option<&str>) -> Vec<u32> {
    let audiences = channel.into_iter().flat_map(Channel::audiences);
    let of_route = audiences.filter(|audience| *audience.route() == route);
    of_route.flat_map(|audience| audience.receivers(value)).copied().collect()
}

#[test]
fn first_and_last_are_told() {
    let mut table = Plain::default();
    let (a, waits) = table.attach(A, "c", 0, Interest::All, 1, 1);
    assert!(a.first && !a.live && waits.is_none());
    let (b, _) = table.attach(A, "c", 1, Interest::Hold, 2, 2);
    assert!(!b.first);
    assert_eq!(table.live(A, "c"), [1, 2]);
    let (c, waits) = table.attach(A, "c", 0, Interest::All, 3, 3);
    assert!(c.live);
    assert_eq!(waits, Some(3));
    assert!(!table.detach(&a.ticket));
    assert!(!table.detach(&a.ticket), "twice does nothing");
    let (d, _) = table.attach(A, "c", 1, value("x"), 4, 4);
    assert!(!table.detach(&d.ticket) && !table.detach(&d.ticket));
    assert!(!table.detach(&b.ticket));
    assert_eq!(
        table.channel(A, "c").unwrap().audiences().map(|a| *a.route()).collect::<Vec<_>>(),
        [0],
        "nothing is left of route 1"
    );
    assert!(table.detach(&c.ticket));
    assert!(table.is_empty());
}

#[test]
fn only_who_is_confirmed_receives() {
    let mut table = Plain::default();
    table.attach(A, "c", 3, Interest::All, 1, 1);
    table.attach(A, "c", 3, value("x"), 2, 2);
    assert_eq!(receivers(&table, "c", 3, Some("x")), [0_u32; 0]);
    table.live(A, "c");
    assert_eq!(receivers(&table, "c", 3, Some("x")), [1, 2]);
    table.down(A);
    table.attach(A, "c", 3, Interest::All, 3, 3);
    assert_eq!(receivers(&table, "c", 3, Some("x")), [1, 2], "what this bridge publishes itself goes on");
}

#[test]
fn filters_separate_neighbours() {
    let mut table = Plain::default();
    table.attach(A, "agents", 0, value("a"), 1, 0);
    table.attach(A, "agents", 0, value("b"), 2, 0);
    table.attach(A, "agents", 0, Interest::Hold, 3, 0);
    table.attach(A, "agents", 1, Interest::All, 4, 0);
    table.live(A, "agents");
    assert_eq!(receivers(&table, "agents", 0, Some("a")), [1]);
    assert_eq!(receivers(&table, "agents", 0, Some("b")), [2]);
    assert_eq!(receivers(&table, "agents", 0, Some("c")), [0_u32; 0]);
    assert_eq!(receivers(&table, "agents", 0, None), [0_u32; 0]);
    assert_eq!(receivers(&table, "agents", 1, Some("a")), [4]);
}

#[test]
fn who_left_while_waiting_is_not_told() {
    let mut table = Plain::default();
    let (a, _) = table.attach(A, "c", 0, Interest::All, 1, 1);
    table.attach(A, "c", 0, Interest::All, 2, 2);
    table.detach(&a.ticket);
    assert_eq!(table.live(A, "c"), [2]);
    table.down(A);
    let (c, _) = table.attach(A, "c", 0, Interest::All, 3, 3);
    assert!(!c.live);
    assert_eq!(table.channel(A, "c").unwrap().confirmed().collect::<Vec<_>>(), [&2]);
    assert_eq!(table.live(A, "c"), [3], "who was confirmed before is not confirmed again");
}

#[test]
fn some_of_those_who_wait_are_confirmed_by_themselves() {
    let mut table = Plain::default();
    for subscriber in 1..=4 {
        table.attach(A, "c", 0, Interest::All, subscriber, subscriber);
    }
    assert_eq!(table.confirm(A, "c", |waiting| waiting % 2 == 0), [2, 4]);
    assert_eq!(receivers(&table, "c", 0, None), [2, 4]);
    let (later, waits) = table.attach(A, "c", 0, Interest::All, 5, 5);
    assert!(!later.live && waits.is_none(), "the channel is not confirmed to whoever comes");
    assert_eq!(table.confirm(A, "c", |_| true), [1, 3, 5]);
    assert_eq!(table.confirm(A, "c", |_| true), [0_u32; 0]);
    assert_eq!(table.confirm(B, "c", |_| true), [0_u32; 0]);
}

#[test]
fn each_link_has_its_own_subscribers_of_the_same_channel() {
    const LINKS: u64 = 100;
    let mut table = Plain::default();
    let tickets: Vec<Ticket<usize>> = (0..LINKS)
        .map(|n| {
            let (attached, _) = table.attach(LinkId(n), "c", 0, Interest::All, n as u32, 0);
            assert!(attached.first && attached.ticket.link() == LinkId(n));
            attached.ticket
        })
        .collect();
    for n in 0..LINKS {
        assert_eq!(table.live(LinkId(n), "c"), [0]);
    }
    table.down(LinkId(7));
    for n in 0..LINKS {
        assert_eq!(of_route(table.channel(LinkId(n), "c"), 0, None), [n as u32]);
        assert_eq!(table.attach(LinkId(n), "c", 0, Interest::Hold, 0, 0).0.live, n != 7);
    }
    assert_eq!(tickets.iter().filter(|ticket| table.detach(ticket)).count(), 0);
    assert_eq!(table.links.len(), LINKS as usize);
}

/// Two channels of one link, and one of the other with the same name.
const PLACES: [(LinkId, &str); 3] = [(A, "c"), (A, "d"), (B, "c")];

#[test]
fn who_moves_to_another_edition_leaves_nothing_behind_and_keeps_its_number() {
    let mut table = Plain::default();
    let (mut a, _) = table.attach(A, "c", 0, Interest::All, 1, 10);
    let (mut b, _) = table.attach(A, "c", 0, Interest::All, 2, 20);
    let (c, _) = table.attach(A, "c", 0, Interest::All, 3, 30);
    assert!(table.move_to(&mut b.ticket, 1, |waiting| *waiting += 1));
    assert_eq!(table.live(A, "c"), [10, 21, 30]);
    assert!(table.move_to(&mut a.ticket, 1, |_| panic!("nobody waits")));
    assert_eq!((receivers(&table, "c", 0, None), receivers(&table, "c", 1, None)), (vec![3], vec![1, 2]));
    assert!(table.move_to(&mut a.ticket, 0, |_| {}), "and back, to where it has left a hole");
    assert_eq!((receivers(&table, "c", 0, None), receivers(&table, "c", 1, None)), (vec![1, 3], vec![2]));
    assert!(!table.detach(&a.ticket) && !table.detach(&c.ticket));
    assert!(!table.move_to(&mut a.ticket, 1, |_| {}), "it is not there any more");
    assert!(table.detach(&b.ticket) && table.is_empty());
}

proptest! {
    /// Against a plain list of subscriptions, with whether each is confirmed.
    #[test]
    fn agrees_with_a_list(steps in proptest::collection::vec((0_u8..8, 0_u8..3, 0_u8..2, 0_u8..4, any::<u8>()), 0..120)) {
        let mut table = Plain::default();
        let mut model: Vec<(Ticket<usize>, u32, bool)> = Vec::new();
        let mut live = [false; 3];
        for (i, (action, place, route, interest, pick)) in steps.into_iter().enumerate() {
            let place = usize::from(place);
            let (link, name) = PLACES[place];
            let is_here = |t: &Ticket<usize>| (t.link, &*t.channel) == (link, name);
            match action {
                0 if !model.is_empty() => {
                    let (ticket, ..) = model.remove(usize::from(pick) % model.len());
                    let last = table.detach(&ticket);
                    let same = |t: &Ticket<usize>| (t.link, &t.channel) == (ticket.link, &ticket.channel);
                    prop_assert_eq!(last, !model.iter().any(|(t, ..)| same(t)));
                    if last {
                        let at = PLACES.iter().position(|p| *p == (ticket.link, &*ticket.channel));
                        live[at.unwrap()] = false;
                    }
                }
                6 | 7 if !model.is_empty() => {
                    let at = usize::from(pick) % model.len();
                    let (ticket, _, confirmed) = &mut model[at];
                    let mut told = false;
                    prop_assert!(table.move_to(ticket, route.into(), |_| told = true));
                    prop_assert_eq!((ticket.route, told), (route.into(), !*confirmed));
                }
                4 => {
                    let told = table.live(link, name).len();
                    let (mut waited, mut any) = (0, false);
                    for (_, _, confirmed) in model.iter_mut().filter(|(t, ..)| is_here(t)) {
                        any = true;
                        waited += usize::from(!std::mem::replace(confirmed, true));
                    }
                    prop_assert_eq!(told, waited);
                    live[place] = any;
                }
                5 => {
                    table.down(link);
                    for (at, _) in PLACES.iter().enumerate().filter(|(_, (l, _))| *l == link) {
                        live[at] = false;
                    }
                }
                _ => {
                    let interest = match interest {
                        0 => Interest::All,
                        1 => Interest::Hold,
                        v => value(&v.to_string()),
                    };
                    let (attached, _) = table.attach(link, name, route.into(), interest, i as u32, 0);
                    prop_assert_eq!(attached.first, !model.iter().any(|(t, ..)| is_here(t)));
                    prop_assert_eq!(attached.live, live[place]);
                    model.push((attached.ticket, i as u32, attached.live));
                }
            }
            for (link, name) in PLACES {
                let channel = table.channel(link, name);
                let mut channels: Vec<&str> = table.channels(link).map(|c| &**c).collect();
                channels.sort_unstable();
                channels.dedup();
                prop_assert_eq!(channel.is_some(), channels.contains(&name));
                prop_assert_eq!(channel.is_some(), model.iter().any(|(t, ..)| (t.link, &*t.channel) == (link, name)));
                for route in 0..2 {
                    for wanted in [None, Some("2"), Some("3")] {
                        let mut got = of_route(channel, route, wanted);
                        let mut expected: Vec<u32> = model.iter()
                            .filter(|(t, _, confirmed)| *confirmed && (t.link, &*t.channel) == (link, name) && t.route == route && match &t.interest {
                                Interest::All => true,
                                Interest::Hold => false,
                                Interest::Value(v) => Some(v.as_str()) == wanted,
                            })
                            .map(|(_, s, _)| *s).collect();
                        got.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(got, expected);
                    }
                }
            }
        }
    }
}
