//! As whom a route's clients are subscribed, where that is not as part of all others.

use std::sync::Arc;

use crate::auth::{Claims, Denied};
use crate::exchange::{Member, NamedBy};
use crate::json;
use crate::pusher::channel::is_channel_byte;
use crate::template::ClaimsText;

/// Longest id of a member, in characters (Pusher docs, "Presence channels").
pub const USER_ID_CHARS_MAX: usize = 128;
/// Most bytes of what is told of a member (Pusher docs, "Presence channels": 1 kB).
pub const INFO_BYTES_MAX: usize = 1024;
/// Most users that one may watch (Pusher answers 4302 to more).
pub const WATCHED_MAX: usize = 100;

/// Who a route's clients are to Pusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Each user is a member of presence channels, by a connection to Pusher of his own.
    EachUser {
        /// What is told of him.
        info: Option<ClaimsText>,
    },
    /// This bridge is one member, and its clients are none.
    Observe(Arc<Member>),
    /// Each user is signed in, for the channel of what backends send to him.
    SignedIn {
        /// What is told of him.
        info: Option<ClaimsText>,
        /// The claim with the ids of those whose coming and going he is told.
        watchlist: Option<String>,
    },
}

impl Membership {
    /// The member that a client is before it has shown a token.
    #[must_use]
    pub fn at_once(&self) -> Option<Arc<Member>> {
        match self {
            Self::Observe(member) => Some(member.clone()),
            Self::EachUser { .. } | Self::SignedIn { .. } => None,
        }
    }

    /// The member that a token makes of its client.
    ///
    /// # Errors
    /// The user's id or what is told of him is not what Pusher takes.
    pub fn of(&self, claims: &Claims) -> Result<Arc<Member>, Denied> {
        let (info, user_data) = match self {
            Self::Observe(member) => return Ok(member.clone()),
            Self::EachUser { info } => {
                check_id(&claims.user, |c| !c.is_control())?;
                (filled(info.as_ref(), claims)?, None)
            }
            Self::SignedIn { info, watchlist } => {
                check_id(&claims.user, |c| u8::try_from(c).is_ok_and(is_channel_byte))?;
                let info = filled(info.as_ref(), claims)?;
                let watched = watchlist.as_deref().map_or(Ok(None), |claim| watched(claim, claims))?;
                let data = user_data(&claims.user, info.as_deref(), watched.as_deref());
                (info, Some(data.into()))
            }
        };
        let (named_by, user_id) = (NamedBy::Token(claims.issuer.clone()), claims.user.as_str().into());
        Ok(Arc::new(Member { named_by, user_id, info, user_data }))
    }
}

fn check_id(id: &str, legal: impl Fn(char) -> bool) -> Result<(), Denied> {
    if id.chars().count() <= USER_ID_CHARS_MAX && id.chars().all(legal) {
        Ok(())
    } else {
        Err(Denied::UserId)
    }
}

fn filled(template: Option<&ClaimsText>, claims: &Claims) -> Result<Option<Arc<str>>, Denied> {
    let Some(template) = template else { return Ok(None) };
    let info = template.fill(&claims.user, |name| claims.get(name));
    if info.len() > INFO_BYTES_MAX { Err(Denied::UserInfo(info.len())) } else { Ok(Some(info.into())) }
}

/// The ids in the claim, as a JSON array of strings; `None`: there is no such claim.
fn watched(claim: &str, claims: &Claims) -> Result<Option<String>, Denied> {
    let Some(list) = claims.get(claim).filter(|value| *value != "null") else { return Ok(None) };
    let ids: Option<Vec<_>> =
        json::elements(list).and_then(|ids| ids.into_iter().map(json::scalar).collect());
    let ids = ids.filter(|ids| ids.len() <= WATCHED_MAX);
    let text = ids.and_then(|ids| serde_json::to_string(&ids).ok());
    text.map(Some).ok_or_else(|| Denied::Watchlist(claim.to_owned()))
}

/// What is signed for `pusher:signin`.
fn user_data(id: &str, info: Option<&str>, watched: Option<&str>) -> String {
    let mut text = format!("{{\"id\":{}", serde_json::Value::from(id));
    for (name, json) in [("user_info", info), ("watchlist", watched)] {
        if let Some(json) = json {
            text += &format!(",\"{name}\":{json}");
        }
    }
    text + "}"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests_support::claims;

    fn info(template: &str) -> Option<ClaimsText> {
        Some(ClaimsText::parse(template).unwrap())
    }

    #[test]
    fn each_user_is_a_member_of_his_own_of_whom_the_claims_are_told() {
        let each = Membership::EachUser { info: info(r#"{"name":{claim.name},"at":{claim.org.unit}}"#) };
        assert_eq!(each.at_once(), None);
        let mut ann = claims("ann smith", &[], 1, r#"{"name":"Ann","org":{"unit":1.5}}"#);
        let member = each.of(&ann).unwrap();
        assert_eq!((&*member.user_id, member.user_data.as_deref()), ("ann smith", None));
        assert_eq!(member.info.as_deref(), Some(r#"{"name":"Ann","at":1.5}"#));
        assert_eq!(
            each.of(&claims("b", &[], 1, "{}")).unwrap().info.as_deref(),
            Some(r#"{"name":null,"at":null}"#)
        );
        // One id of two issuers is two users.
        ann.issuer = Some("https://a".into());
        assert_ne!(each.of(&ann).unwrap().key(), member.key());
        let nothing = Membership::EachUser { info: None }.of(&ann).unwrap();
        assert_eq!((nothing.info.as_ref(), nothing.key()), (None, each.of(&ann).unwrap().key()));
    }

    #[test]
    fn what_pusher_would_not_take_is_told_at_once() {
        let each = Membership::EachUser { info: info("{claim.x}") };
        let signed_in = Membership::SignedIn { info: None, watchlist: Some("contacts".into()) };
        let of = |who: &Membership, user: &str, more: &str| who.of(&claims(user, &[], 1, more)).map(drop);
        let long = "é".repeat(USER_ID_CHARS_MAX);
        assert_eq!(of(&each, &long, "{}"), Ok(()));
        assert_eq!(of(&each, &(long + "x"), "{}"), Err(Denied::UserId));
        assert_eq!(of(&each, "a\nb", "{}"), Err(Denied::UserId));
        assert_eq!(of(&signed_in, "a b", "{}"), Err(Denied::UserId));
        let told = |bytes: usize| format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes - 2));
        assert_eq!(of(&each, "a", &told(INFO_BYTES_MAX)), Ok(()));
        assert_eq!(of(&each, "a", &told(INFO_BYTES_MAX + 1)), Err(Denied::UserInfo(INFO_BYTES_MAX + 1)));
        let list = |count: usize| serde_json::json!({ "contacts": vec!["u"; count] }).to_string();
        assert_eq!(of(&signed_in, "a", &list(WATCHED_MAX)), Ok(()));
        assert_eq!(of(&signed_in, "a", &list(WATCHED_MAX + 1)), Err(Denied::Watchlist("contacts".into())));
        assert_eq!(of(&signed_in, "a", r#"{"contacts":"u"}"#), Err(Denied::Watchlist("contacts".into())));
    }

    #[test]
    fn who_is_signed_in_is_named_with_what_he_watches() {
        let who = |watchlist: Option<&str>, template: Option<&str>| Membership::SignedIn {
            info: template.and_then(info),
            watchlist: watchlist.map(str::to_owned),
        };
        let claims = claims("ann", &[], 1, r#"{"contacts":["b\"c",7],"n":1.5}"#);
        for (who, expected) in [
            (who(None, None), r#"{"id":"ann"}"#),
            (who(Some("nobody"), None), r#"{"id":"ann"}"#),
            (
                who(Some("contacts"), Some(r#"{"n":{claim.n}}"#)),
                r#"{"id":"ann","user_info":{"n":1.5},"watchlist":["b\"c","7"]}"#,
            ),
        ] {
            assert_eq!(who.of(&claims).unwrap().user_data.as_deref(), Some(expected));
        }
    }
}
