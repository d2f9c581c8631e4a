//! `[[upstream.other_keys]]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::Str;
use crate::config::schema as s;

/// Another key of the app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["key"], "oneOf" = s::one_of(&["secret", "secret_file"])))]
pub(in crate::config) struct OtherKey {
    /// The key.
    #[schemars(extend("pattern" = s::ID))]
    pub(in crate::config) key: Str,
    /// Its secret.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) secret: Str,
    /// A file with its secret.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) secret_file: Str,
}
