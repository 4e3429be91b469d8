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

/// Bytes of a key: those of SHA-256.
const BYTES: usize = 32;

/// The key of a pool: the SHA-256 digest of its configuration's canonical JSON. Its text is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolKey([u8; BYTES]);

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
        Self(Sha256::digest(text.as_bytes()).into())
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
        // of {"nodes":2,"queue":"demand"}
        let wanted = "40b4a0c48f5b307510fe214f649018e917faa58c0180768c94f62bdb72caed9a";
        assert_eq!(key(r#"{"queue": "demand", "nodes": 2}"#).to_string(), wanted);
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
