//! What both ends of a run share, and the signatures made of it.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use serde_json::json;

use crate::Result;

pub(crate) const APP_ID: &str = "bench-app";
pub(crate) const APP_KEY: &str = "bench-key";
pub(crate) const APP_SECRET: &str = "bench-secret";
pub(crate) const JWT_SECRET: &str = "bench-jwt-secret-of-thirty-two-bytes-and-more";

/// Every token's role.
pub(crate) const ROLE: &str = "teacher";
/// Base64 of 32 bytes.
pub(crate) const ENCRYPTION_MASTER_KEY: &str = "YmVuY2gtbWFzdGVyLWtleS1vZi0zMi1ieXRlcy1sb24=";
/// Channels whose events are encrypted.
pub(crate) const ENCRYPTED: &str = "private-encrypted-";

/// Longer than any run.
const TOKEN_SECONDS: u64 = 24 * 3_600;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The name in a client's token.
pub(crate) fn name(client: usize) -> String {
    format!("Client {client}")
}

/// The address in a client's token.
pub(crate) fn email(client: usize) -> String {
    format!("client-{client}@example.com")
}

/// A client's token, HS256; each is another, so that no cache of verified tokens helps anybody.
pub(crate) fn token(client: usize, user: &str, plugins: &[&str]) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = json!({
        "sub": user,
        "role": ROLE,
        "name": name(client),
        "email": email(client),
        "permissions": ["content:generate", "roblox:read"],
        "plugin_ids": plugins,
        "jti": format!("client-{client}"),
        "iat": now(),
        "exp": now() + TOKEN_SECONDS,
    });
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = hmac_sha256(JWT_SECRET, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The `auth` of a subscription to a private channel.
pub(crate) fn channel_auth(socket_id: &str, channel: &str) -> String {
    format!(
        "{APP_KEY}:{}",
        hex(hmac_sha256(APP_SECRET, format!("{socket_id}:{channel}").as_bytes()).as_ref())
    )
}

/// A signature with the app's secret, hexadecimal.
pub(crate) fn app_signature(text: &str) -> String {
    hex(hmac_sha256(APP_SECRET, text.as_bytes()).as_ref())
}

/// `Sec-WebSocket-Accept` of RFC 6455 §4.2.2.
pub(crate) fn websocket_accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// An event's data as a backend encrypts it for this channel: NaCl's secretbox, under the SHA-256 of the channel's name
/// and the master key (pusher/docs, encrypted-channels.md).
pub(crate) fn encrypted(channel: &str, data: &str) -> Result<String> {
    let master = STANDARD.decode(ENCRYPTION_MASTER_KEY)?;
    let key = digest::digest(&digest::SHA256, &[channel.as_bytes(), &master].concat());
    let cipher = XSalsa20Poly1305::new_from_slice(key.as_ref()).map_err(|error| error.to_string())?;
    let mut nonce = Nonce::default();
    aws_lc_rs::rand::fill(&mut nonce)?;
    let sealed = cipher.encrypt(&nonce, data.as_bytes()).map_err(|error| error.to_string())?;
    Ok(json!({"nonce": STANDARD.encode(nonce), "ciphertext": STANDARD.encode(sealed)}).to_string())
}

fn hmac_sha256(secret: &str, text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_is_the_rfcs() {
        assert_eq!(websocket_accept(crate::ws::KEY), crate::ws::ACCEPT);
    }

    #[test]
    fn no_two_clients_have_the_same_token() {
        assert_ne!(token(1, "u", &[]), token(2, "u", &[]));
    }
}
