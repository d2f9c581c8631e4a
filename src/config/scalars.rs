//! Values as they are in the file: each knows its place, and a number or a flag may be a string, because the
//! environment has nothing else.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// A value and its place in the file.
#[derive(Clone, Debug)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub(super) fn span(&self) -> Range<usize> {
        self.0.span()
    }

    pub(super) fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Another value at the same place.
    pub(super) fn with<U>(&self, value: U) -> At<U> {
        At(Spanned::new(self.span(), value))
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: Eq> Eq for At<T> {}

impl<T: PartialOrd> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.get().partial_cmp(other.get())
    }
}

impl<T: Ord> Ord for At<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.get().cmp(other.get())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(At)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A string with a variable in it, for the schema: it may become anything.
pub(super) const INTERPOLATED: &str = r"\$\{";

/// The schema of a scalar type.
macro_rules! scalar_schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// A whole number, or its digits in a string.
#[derive(Clone, Debug)]
pub(super) enum Number {
    Integer(i64),
    Text(String),
}

impl Number {
    /// What an unset variable leaves, as in `"${MAX:-}"`: as if the key were not there.
    pub(super) const fn is_unset(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }
}

scalar_schema!(Number, "Number", {
    "anyOf": [
        { "type": "integer" },
        { "type": "string", "pattern": r"^[0-9]*$|\$\{" },
    ]
});

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number::Integer(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number::Integer(i64::try_from(value).unwrap_or(i64::MAX)))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Number, E> {
                Ok(Number::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// `true` or `false`, or one of these in a string.
#[derive(Clone, Debug)]
pub(super) enum Flag {
    Is(bool),
    Text(String),
}

scalar_schema!(Flag, "Flag", {
    "anyOf": [
        { "type": "boolean" },
        { "type": "string", "pattern": r"^(true|false)?$|\$\{" },
    ]
});

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag::Is(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Flag, E> {
                Ok(Flag::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// Either a short form (a string or a number) or something longer, by the value's own type.
#[derive(Clone, Debug)]
pub(super) enum Either<Short, Long> {
    Short(Short),
    Long(Long),
}

/// How the two forms of an [`Either`] are told apart.
struct ReadEither<Short, Long>(PhantomData<(Short, Long)>);

/// A short form: made from a plain value.
pub(super) trait Short: Sized {
    const EXPECTED: &'static str;
    fn from_text(text: &str) -> Option<Self>;
    fn from_integer(value: i64) -> Option<Self>;
}

impl Short for Number {
    const EXPECTED: &'static str = "a whole number or a table";

    fn from_text(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn from_integer(value: i64) -> Option<Self> {
        Some(Self::Integer(value))
    }
}

/// The word `unlimited`.
#[derive(Clone, Debug)]
pub(super) struct Unlimited;

scalar_schema!(Unlimited, "Unlimited", { "const": "unlimited" });

impl Short for Unlimited {
    const EXPECTED: &'static str = "a table { count, per } or \"unlimited\"";

    fn from_text(text: &str) -> Option<Self> {
        (text == "unlimited").then_some(Self)
    }

    fn from_integer(_: i64) -> Option<Self> {
        None
    }
}

impl Short for String {
    const EXPECTED: &'static str = "a string or a list of strings";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn from_integer(_: i64) -> Option<Self> {
        None
    }
}

impl<'de, S: Short, L: Deserialize<'de>> Visitor<'de> for ReadEither<S, L> {
    type Value = Either<S, L>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::EXPECTED)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        S::from_text(value)
            .map(Either::Short)
            .ok_or_else(|| E::custom(format!("`{value}` is not {}", S::EXPECTED)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        S::from_integer(value)
            .map(Either::Short)
            .ok_or_else(|| E::custom(format!("`{value}` is not {}", S::EXPECTED)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        L::deserialize(MapAccessDeserializer::new(map)).map(Either::Long)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        L::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Either::Long)
    }
}

impl<'de, S: Short, L: Deserialize<'de>> Deserialize<'de> for Either<S, L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadEither(PhantomData))
    }
}

impl<S: JsonSchema, L: JsonSchema> JsonSchema for Either<S, L> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}_or_{}", S::schema_name(), L::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (short, long) = (generator.subschema_for::<S>(), generator.subschema_for::<L>());
        json_schema!({ "anyOf": [short, long] })
    }
}

/// A closed list of words, for a key that takes one of them.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant),+ }

        impl $name {
            pub(super) const WORDS: &'static [&'static str] = &[$($word),+];

            pub(super) fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                Self::of(&word).ok_or_else(|| serde::de::Error::unknown_variant(&word, Self::WORDS))
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "anyOf": [
                        { "enum": [$($word),+] },
                        { "pattern": $crate::config::scalars::INTERPOLATED },
                    ]
                })
            }
        }
    };
}
pub(super) use choice;
