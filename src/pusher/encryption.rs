//! Encrypted channels (pusher/docs, `using_channels/encrypted-channels.md`): the data of their events is sealed by
//! NaCl's secretbox, XSalsa20-Poly1305, under a key that each channel has from the app's master key.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use secrecy::{ExposeSecret as _, SecretBox};

use crate::json::Object;
use crate::metrics::label::labels;

/// Bytes of a master key, and of a channel's (encrypted-channels.md).
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce (NaCl, secretbox).
pub const NONCE_BYTES: usize = 24;
/// Bytes that a ciphertext has beyond its text: the tag (NaCl, secretbox).
const TAG_BYTES: usize = 16;

labels! {
    /// Why an event of an encrypted channel was not decrypted.
    pub enum Undecryptable: "reason" {
        /// There is no master key.
        NoKey = "no_key",
        /// Its data is not an object with a nonce and a ciphertext: it was published in clear.
        NotEncrypted = "not_encrypted",
        /// Nonce or ciphertext is not base64.
        NotBase64 = "not_base64",
        /// The nonce is not of 24 bytes.
        NonceLength = "nonce_length",
        /// It was sealed under another key, for another channel, or was altered.
        WrongKey = "wrong_key",
        /// What was sealed is not text.
        NotUtf8 = "not_utf8",
    }
}

/// An app's `encryption_master_key`.
pub struct MasterKey(SecretBox<[u8; KEY_BYTES]>);

impl PartialEq for MasterKey {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.0.expose_secret(), other.0.expose_secret()).is_ok()
    }
}

impl MasterKey {
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(SecretBox::new(Box::new(bytes)))
    }

    /// The key whose base64 this is, as all of Pusher's libraries take it: padded, in the standard alphabet.
    ///
    /// # Errors
    /// What it is instead, in words that do not quote it.
    pub fn parse(base64: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(base64).map_err(|_| "the key is not base64".to_owned())?;
        let length = bytes.len();
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes)
            .map_err(|_| format!("the key has {length} bytes, and must have exactly {KEY_BYTES}"))?;
        Ok(Self::new(bytes))
    }

    /// The key of one channel: SHA-256 of the channel's name and the master key.
    #[must_use]
    pub fn of_channel(&self, channel: &str) -> ChannelKey {
        let mut context = Context::new(&SHA256);
        context.update(channel.as_bytes());
        context.update(self.0.expose_secret());
        let mut key = [0; KEY_BYTES];
        key.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        ChannelKey(SecretBox::new(Box::new(key)))
    }
}

impl Clone for MasterKey {
    fn clone(&self) -> Self {
        Self::new(*self.0.expose_secret())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// The key of one channel.
pub struct ChannelKey(SecretBox<[u8; KEY_BYTES]>);

impl ChannelKey {
    /// The key as a client gets it with its authorization: the `shared_secret`, base64.
    #[must_use]
    pub fn shared_secret(&self) -> String {
        STANDARD.encode(self.0.expose_secret())
    }

    fn cipher(&self) -> XSalsa20Poly1305 {
        XSalsa20Poly1305::new(Key::from_slice(self.0.expose_secret()))
    }

    /// What an event's data, JSON text, has sealed in it.
    ///
    /// # Errors
    /// It is not sealed, not for this key, or not text.
    pub fn open(&self, data: &str) -> Result<String, Undecryptable> {
        let object = Object::parse(data).map_err(|_| Undecryptable::NotEncrypted)?;
        let part = |name| {
            let text = object.string(name).ok_or(Undecryptable::NotEncrypted)?;
            STANDARD.decode(text.as_bytes()).map_err(|_| Undecryptable::NotBase64)
        };
        let (nonce, ciphertext) = (part("nonce")?, part("ciphertext")?);
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| Undecryptable::NonceLength)?;
        let text = self
            .cipher()
            .decrypt(Nonce::from_slice(&nonce), ciphertext.as_slice())
            .map_err(|_| Undecryptable::WrongKey)?;
        String::from_utf8(text).map_err(|_| Undecryptable::NotUtf8)
    }

    /// An event's data with `text` sealed in it. No nonce may be used twice.
    #[must_use]
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], text: &str) -> String {
        // It fails for texts beyond what any memory holds.
        let sealed = self.cipher().encrypt(Nonce::from_slice(&nonce), text.as_bytes()).unwrap_or_default();
        format!(r#"{{"nonce":"{}","ciphertext":"{}"}}"#, STANDARD.encode(nonce), STANDARD.encode(sealed))
    }
}

/// Bytes of an event's data that has a text of `bytes` sealed in it. Pusher's limit counts these (encrypted-channels.md).
#[must_use]
pub const fn sealed_bytes(bytes: usize) -> usize {
    const fn base64(bytes: usize) -> usize {
        bytes.div_ceil(3) * 4
    }
    r#"{"nonce":"","ciphertext":""}"#.len() + base64(NONCE_BYTES) + base64(bytes.saturating_add(TAG_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of node's tests.
    const MASTER: &str = "zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=";
    /// Of java's tests.
    const CHANNEL_KEY: &str = "iBvNoPVYwByqSfg6anjPpEQ2j051b3rt1Vmnb+z5doo=";
    const SEALED: &str = r#"{"nonce":"4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9","ciphertext":"/GMESnFGlbNn01BuBjp31XYa3i9vZsGKR8fgR9EDhXKx3lzGiUD501A="}"#;

    fn channel_key(base64: &str) -> ChannelKey {
        ChannelKey(MasterKey::parse(base64).unwrap().0)
    }

    #[test]
    fn a_channels_key_is_that_of_pushers_libraries() {
        let secret = MasterKey::parse(MASTER).unwrap().of_channel("private-encrypted-bla").shared_secret();
        assert_eq!(secret, "nlr49ISQHz91yS3cy/yWmW8wFMNeTnNL5tNHnbPJcLQ=");
    }

    #[test]
    fn what_pushers_libraries_sealed_is_opened() {
        let key = channel_key(CHANNEL_KEY);
        assert_eq!(key.open(SEALED).unwrap(), r#"{"message":"hello world"}"#);
        let nonce = STANDARD.decode("4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9").unwrap().try_into().unwrap();
        assert_eq!(key.seal(nonce, r#"{"message":"hello world"}"#), SEALED, "and sealed alike");
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        use Undecryptable::{NonceLength, NotBase64, NotEncrypted, NotUtf8, WrongKey};
        let key = channel_key(CHANNEL_KEY);
        let nonce = [7; NONCE_BYTES];
        let sealed = key.cipher().encrypt(Nonce::from_slice(&nonce), &b"\xff\xfe"[..]).unwrap();
        let not_text =
            format!(r#"{{"nonce":"{}","ciphertext":"{}"}}"#, STANDARD.encode(nonce), STANDARD.encode(sealed));
        for (data, why) in [
            ("null", NotEncrypted),
            (r#""text""#, NotEncrypted),
            (r#"{"message":"in clear"}"#, NotEncrypted),
            (r#"{"nonce":"4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9"}"#, NotEncrypted),
            (r#"{"nonce":1,"ciphertext":"AAAA"}"#, NotEncrypted),
            (r#"{"nonce":"4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9","ciphertext":"?"}"#, NotBase64),
            (r#"{"nonce":"AAAA","ciphertext":"AAAA"}"#, NonceLength),
            (r#"{"nonce":"","ciphertext":""}"#, NonceLength),
            (r#"{"nonce":"4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9","ciphertext":""}"#, WrongKey),
            (r#"{"nonce":"4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9","ciphertext":"AAAA"}"#, WrongKey),
            (&SEALED.replace("/GME", "/GMF"), WrongKey),
            (&not_text, NotUtf8),
        ] {
            assert_eq!(key.open(data), Err(why), "{data}");
        }
        assert_eq!(channel_key(MASTER).open(SEALED), Err(WrongKey));
    }

    #[test]
    fn a_master_key_has_32_bytes_and_is_never_shown() {
        for (text, why) in [
            ("", "the key has 0 bytes"),
            ("not base64", "the key is not base64"),
            ("zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU", "the key is not base64"),
            ("zyrm8pvV2C9fJcBfhyXzvxbJVN_H7QLmbe0xJi1GhPU=", "the key is not base64"),
            // Go's own test key: 33 bytes.
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "the key has 33 bytes"),
        ] {
            let error = MasterKey::parse(text).map(|_| ()).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
        assert_eq!(format!("{:?}", MasterKey::parse(MASTER).unwrap()), "MasterKey(***)");
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_by_the_same_key_only(
            master: [u8; KEY_BYTES],
            nonce: [u8; NONCE_BYTES],
            text in ".{0,200}",
        ) {
            let master = MasterKey::new(master);
            let key = master.of_channel("private-encrypted-a");
            let sealed = key.seal(nonce, &text);
            prop_assert_eq!(sealed.len(), sealed_bytes(text.len()));
            prop_assert_eq!(key.open(&sealed), Ok(text));
            let other = master.of_channel("private-encrypted-b");
            prop_assert_eq!(other.open(&sealed), Err(Undecryptable::WrongKey));
        }

        #[test]
        fn whatever_comes_is_judged(data in ".{0,80}") {
            let _ = channel_key(CHANNEL_KEY).open(&data);
        }
    }
}
