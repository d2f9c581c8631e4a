//! Events of encrypted channels.

use super::cases::{Bench, cached, events};
use crate::pusher::encryption::{KEY_BYTES, MasterKey, NONCE_BYTES, Undecryptable};
use crate::pusher::frame;
use crate::upstream::delivery::Delivery;
use crate::upstream::link::machine::{Action, Note};

const CHANNEL: &str = "private-encrypted-a";
const CACHE: &str = "private-encrypted-cache-a";

fn key() -> MasterKey {
    MasterKey::new([7; KEY_BYTES])
}

fn sealed(key: &MasterKey, channel: &str, text: &str) -> String {
    key.of_channel(channel).seal([1; NONCE_BYTES], text)
}

fn subscribed(key: Option<MasterKey>, channel: &str) -> Bench {
    let mut b = Bench::connected();
    b.machine.master_key = key;
    b.subscribe(channel);
    b.confirmed(channel);
    b
}

/// Why an event was not decrypted, if the hubs were told that it was not, and of nothing else.
fn refused(actions: &[Action]) -> Option<Undecryptable> {
    match actions {
        [
            Action::Note(Note::Undecryptable { why, .. }),
            Action::Tell(_, Delivery::Undecryptable { channel, .. }),
        ] if **channel == *CHANNEL => Some(*why),
        _ => None,
    }
}

#[test]
fn hubs_get_what_was_sealed_as_any_other_data() {
    for (text, data) in [
        (r#"{"n": 1.50}"#, r#"{"n": 1.50}"#),
        ("7", "7"),
        ("plain \"text\"", r#""plain \"text\"""#),
        ("", r#""""#),
    ] {
        let mut b = subscribed(Some(key()), CHANNEL);
        let sealed = sealed(&key(), CHANNEL, text);
        assert_eq!(events(&b.event(CHANNEL, &sealed)), [data], "its data is a string");
        let as_object = frame::event_raw("changed", Some(CHANNEL), Some(&sealed), None);
        assert_eq!(events(&b.frame(&as_object)), [data], "its data is an object");
    }
}

#[test]
fn what_cannot_be_decrypted_is_told_and_never_passed_on() {
    let other = MasterKey::new([8; KEY_BYTES]);
    for (key, data, why) in [
        (Some(key()), r#"{"n":1}"#.to_owned(), Undecryptable::NotEncrypted),
        (Some(key()), sealed(&other, CHANNEL, "1"), Undecryptable::WrongKey),
        (Some(key()), sealed(&key(), CACHE, "1"), Undecryptable::WrongKey),
        (None, sealed(&key(), CHANNEL, "1"), Undecryptable::NoKey),
    ] {
        let mut b = subscribed(key, CHANNEL);
        assert_eq!(refused(&b.event(CHANNEL, &data)), Some(why), "{data}");
    }
}

#[test]
fn other_channels_are_read_as_ever() {
    let mut b = subscribed(Some(key()), "private-a");
    let sealed = sealed(&key(), "private-a", "1");
    assert_eq!(events(&b.event("private-a", &sealed)), [sealed.as_str()]);
}

#[test]
fn the_last_event_of_an_encrypted_cache_channel_is_kept_in_clear() {
    let mut b = subscribed(Some(key()), CACHE);
    let hundred = sealed(&key(), CACHE, "100");
    b.event(CACHE, &hundred);
    b.unsubscribe(CACHE);
    b.event(CACHE, &sealed(&key(), CACHE, "200"));
    assert_eq!(cached(&b.subscribe(CACHE)), Some("200"), "what came while it lingered, too");
    b.event(CACHE, "not sealed");
    b.unsubscribe(CACHE);
    assert_eq!(cached(&b.subscribe(CACHE)), None, "an older one would be a wrong one");
    b.event(CACHE, &hundred);
    b.unsubscribe(CACHE);
    b.event(CACHE, "not sealed");
    assert_eq!(cached(&b.subscribe(CACHE)), None, "and while it lingers");
}
