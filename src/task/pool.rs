//! Pools: tasks and blocks with the same `user_endpoint_config` belong together, and its digest is the pool's key.
//!
//! Pure. It does not look at what the configuration says: only the endpoint validates it.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::spec::Place;

/// Bytes of a key: those of SHA-256.
const BYTES: usize = 32;

/// Bytes of a configuration as canonical JSON: some hundred parameters. Globus Compute's service allows as much.
pub const LARGEST_CONFIG: usize = 16 << 10;

/// The key of a pool: the SHA-256 digest of its configuration's canonical JSON. Its text is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolKey([u8; BYTES]);

/// What tasks ask of the block that they run on, as their user wrote it. Only the endpoint knows what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    key: PoolKey,
    config: Value,
}

/// A configuration that no pool has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    /// It is no JSON object.
    #[error("the user_endpoint_config is {found}; a JSON object is expected")]
    NoObject {
        /// What it is.
        found: &'static str,
    },
    /// It is too large.
    #[error("the user_endpoint_config has {bytes} bytes; at most {LARGEST_CONFIG} are allowed")]
    Large {
        /// Its size.
        bytes: usize,
    },
    /// It is no JSON.
    #[error("the user_endpoint_config is no JSON: {reason}")]
    NoJson {
        /// What the parser says, with line and column.
        reason: String,
    },
}

impl Pool {
    /// The pool with a configuration.
    ///
    /// # Errors
    /// It is no object, or has more than [`LARGEST_CONFIG`] bytes as canonical JSON.
    pub fn new(config: Value) -> Result<Self, PoolError> {
        let found = match &config {
            Value::Object(_) => None,
            Value::Null => Some("null"),
            Value::Bool(_) => Some("true or false"),
            Value::Number(_) => Some("a number"),
            Value::String(_) => Some("a text"),
            Value::Array(_) => Some("a list"),
        };
        if let Some(found) = found {
            return Err(PoolError::NoObject { found });
        }
        let mut text = String::new();
        write_canonical(&config, &mut text);
        if text.len() > LARGEST_CONFIG {
            return Err(PoolError::Large { bytes: text.len() });
        }
        Ok(Self { key: PoolKey::of_canonical(&text), config })
    }

    /// Its key.
    pub fn key(&self) -> PoolKey {
        self.key
    }

    /// Its configuration: a JSON object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Its configuration as canonical JSON.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        write_canonical(&self.config, &mut text);
        text
    }
}

/// Where a task waits, by where it will run: tasks of one lane take each other's place, and are leased by priority and age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// On the endpoint's own node, whatever the pool.
    Login,
    /// In a slot of a block of this pool.
    Pool(PoolKey),
}

impl Lane {
    /// The lane of a task.
    pub fn of(place: Place, pool: PoolKey) -> Self {
        match place {
            Place::Login => Self::Login,
            Place::Slot => Self::Pool(pool),
        }
    }
}

/// The pool of tasks that ask for nothing.
impl Default for Pool {
    fn default() -> Self {
        Self { key: PoolKey::DEFAULT, config: Value::Object(serde_json::Map::new()) }
    }
}

/// As its configuration.
impl Serialize for Pool {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.config.serialize(serializer)
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        // before it is parsed: a parser's memory is a multiple of its text
        if text.len() > LARGEST_CONFIG * 2 {
            return Err(PoolError::Large { bytes: text.len() });
        }
        if text == "{}" {
            return Ok(Self::default());
        }
        Self::new(serde_json::from_str(text).map_err(|error| PoolError::NoJson { reason: error.to_string() })?)
    }
}

/// A text or a row that is no pool key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a pool's key: 64 lower-case hexadecimal digits are expected")]
pub struct PoolKeyError;

impl PoolKey {
    /// The key of the pool with this configuration.
    ///
    /// Two configurations that differ in the order of their keys or in white space have one key.
    pub fn of(config: &Value) -> Self {
        let mut text = String::new();
        write_canonical(config, &mut text);
        Self::of_canonical(&text)
    }

    fn of_canonical(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The key of the pool whose configuration is empty: the digest of `{}`.
    pub const DEFAULT: Self = Self([
        0x44, 0x13, 0x6f, 0xa3, 0x55, 0xb3, 0x67, 0x8a, 0x11, 0x46, 0xad, 0x16, 0xf7, 0xe8, 0x64, 0x9e, 0x94, 0xfb,
        0x4f, 0xc2, 0x1f, 0xe7, 0x7e, 0x83, 0x10, 0xc0, 0x60, 0xf6, 0x1c, 0xaa, 0xff, 0x8a,
    ]);

    /// Whether its configuration is empty.
    pub fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }

    /// From its bytes, as stores keep it.
    ///
    /// # Errors
    /// There are not 32 of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PoolKeyError> {
        bytes.try_into().map(Self).map_err(|_| PoolKeyError)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; BYTES] {
        &self.0
    }
}

/// JSON without white space and with sorted keys. `serde_json` sorts them only as long as no other crate of the build
/// asks it to keep their order.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _never_fails = write!(text, "{value}");
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, field)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(&Value::String(key.clone()), text);
                text.push(':');
                write_canonical(field, text);
            }
            text.push('}');
        }
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PoolKey({self})")
    }
}

impl FromStr for PoolKey {
    type Err = PoolKeyError;

    fn from_str(text: &str) -> Result<Self, PoolKeyError> {
        let digits: Vec<u8> = text.bytes().map(digit).collect::<Option<_>>().ok_or(PoolKeyError)?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(PoolKeyError);
        }
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        Self::from_bytes(&bytes)
    }
}

/// Upper case is refused: a key has one text.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

impl TryFrom<String> for PoolKey {
    type Error = PoolKeyError;

    fn try_from(text: String) -> Result<Self, PoolKeyError> {
        text.parse()
    }
}

impl From<PoolKey> for String {
    fn from(key: PoolKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(text: &str) -> PoolKey {
        PoolKey::of(&serde_json::from_str(text).expect("json"))
    }

    #[test]
    fn order_and_white_space_make_no_other_pool() {
        let one = key(r#"{"queue":"demand","nodes":{"a":1,"b":[1,2]}}"#);
        assert_eq!(one, key("{ \"nodes\" : {\"b\":[1, 2],\"a\":1}, \"queue\":\"demand\"}"));
        assert_ne!(one, key(r#"{"queue":"demand","nodes":{"a":1,"b":[2,1]}}"#));
        assert_ne!(key(r#"{"a":"1"}"#), key(r#"{"a":1}"#));
        assert_ne!(key(r#"{"a":{},"b":1}"#), key(r#"{"a":{"b":1}}"#));
    }

    #[test]
    fn a_key_stays_the_same() {
        // stores and journals keep it
        let wanted = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(PoolKey::of(&json!({})).to_string(), wanted, "sha256 of {{}}");
        assert_eq!((PoolKey::of(&json!({})), Pool::default().key()), (PoolKey::DEFAULT, PoolKey::DEFAULT));
        // of {"nodes":2,"queue":"demand"}
        let wanted = "40b4a0c48f5b307510fe214f649018e917faa58c0180768c94f62bdb72caed9a";
        assert_eq!(key(r#"{"queue": "demand", "nodes": 2}"#).to_string(), wanted);
    }

    #[test]
    fn a_configuration_is_an_object_of_bounded_size() {
        let pool: Pool = r#"{"queue": "demand", "nodes": 2}"#.parse().expect("a pool");
        assert_eq!(
            (pool.key(), pool.canonical().as_str()),
            (PoolKey::of(pool.config()), r#"{"nodes":2,"queue":"demand"}"#)
        );
        assert_eq!(" {} ".parse::<Pool>(), Ok(Pool::default()));
        let refused = |text: &str| text.parse::<Pool>().expect_err("refused").to_string();
        assert_eq!(refused("[1]"), "the user_endpoint_config is a list; a JSON object is expected");
        assert!(refused("{").starts_with("the user_endpoint_config is no JSON: EOF"));
        let large = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        assert!(large(LARGEST_CONFIG).parse::<Pool>().is_ok());
        assert!(refused(&large(LARGEST_CONFIG + 1)).contains("has 16385 bytes; at most 16384"));
        assert!(refused(&" ".repeat(1 << 20)).contains("1048576 bytes"));
        // as deep as a stack may be
        assert!(refused(&"{\"a\":".repeat(5000)).contains("recursion limit"));
    }

    #[test]
    fn a_key_has_one_text() {
        let key = key(r#"{"queue":"debug"}"#);
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(PoolKey::from_bytes(key.bytes()), Ok(key));
        assert_eq!(serde_json::from_value::<PoolKey>(json!(text)).expect("a key"), key);
        for other in ["", &text[1..], &text.to_uppercase(), &format!("{text}00"), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(other.parse::<PoolKey>(), Err(PoolKeyError), "{other}");
        }
    }
}
