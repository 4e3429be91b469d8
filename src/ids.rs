//! Identifiers, a newtype each, so that one cannot be taken for another.
//!
//! Pure: they are made elsewhere, from the clock and the system's randomness (`runtime::ids`); only the names of
//! functions are computed here.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// A text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind} id {text:?} is malformed; give it as 00000000-0000-0000-0000-000000000000")]
pub struct IdError {
    kind: &'static str,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// From a number that was made for it.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The number.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// From its 16 bytes, as stores keep it.
            ///
            /// # Errors
            /// Another number of bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|_| IdError { kind: $kind, text: format!("{} bytes", bytes.len()) })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                // the other forms that the parser knows (braces, URN, no hyphens) would give a thing several names
                let plain = text.len() == Uuid::nil().hyphenated().encode_lower(&mut Uuid::encode_buffer()).len();
                match Uuid::try_parse(text) {
                    Ok(uuid) if plain => Ok(Self(uuid)),
                    _ => Err(IdError { kind: $kind, text: text.chars().take(64).collect() }),
                }
            }
        }
    };
}

id!(
    /// A task; ascending with the time of its submission (UUID version 7).
    TaskId,
    "task"
);
id!(
    /// A flow's group of tasks.
    ActionId,
    "action"
);
id!(
    /// An endpoint, by its configuration; the same after each restart.
    EndpointId,
    "endpoint"
);
id!(
    /// A run of an endpoint's process: only the newest may lease.
    SessionId,
    "session"
);
id!(
    /// A worker's process.
    WorkerId,
    "worker"
);
id!(
    /// A batch job that an endpoint asked for.
    BlockId,
    "block"
);
id!(
    /// A token; not its secret.
    TokenId,
    "token"
);
id!(
    /// What flows call a kind of task: computed from its name, the same everywhere.
    FunctionId,
    "function"
);

/// The namespace of [`FunctionId::named`]: UUID version 5 of the name `speckled.function` in the DNS namespace.
const FUNCTIONS: Uuid = Uuid::from_u128(0x7023_2077_cb55_5ca2_bf05_0e4a_0ee1_22c2);

impl FunctionId {
    /// The id of a kind of task (UUID version 5, RFC 9562).
    pub fn named(name: &str) -> Self {
        Self(Uuid::new_v5(&FUNCTIONS, name.as_bytes()))
    }
}

/// Number of an attempt of a task, from 1. It fences: once a higher one was given out, reports of lower ones are
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptNumber(NonZeroU32);

impl AttemptNumber {
    /// The first.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// As a number of a store or a message; None for 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// As a number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a connection of an endpoint, ascending; the store gives it. Only the newest leases, renews and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// As a number of a store.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An attempt of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// Of which task.
    pub task: TaskId,
    /// The how manieth.
    pub number: AttemptNumber,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.number)
    }
}

impl TaskId {
    /// A number by chance, the same each time: it spreads what is done for many tasks at once.
    pub fn spread(self) -> u8 {
        self.0.as_bytes()[15]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text() {
        let text = "0190163d-8694-739b-aea5-966c26f8ad91";
        let id: TaskId = text.parse().expect("an id");
        assert_eq!(id.to_string(), text);
        assert_eq!(TaskId::from_bytes(id.uuid().as_bytes()), Ok(id));
        for other in ["", "0190163d8694739baea5966c26f8ad91", "{0190163d-8694-739b-aea5-966c26f8ad91}", &text[1..]] {
            let error = other.parse::<TaskId>().expect_err("no id").to_string();
            assert!(error.starts_with("task id ") && error.contains("is malformed"), "{error}");
        }
        assert!(TaskId::from_bytes(&[1, 2]).is_err());
    }

    #[test]
    fn functions_keep_their_ids() {
        // flows store these: they must never change
        assert_eq!(FunctionId::named("correlate").to_string(), FunctionId::named("correlate").to_string());
        assert_ne!(FunctionId::named("correlate"), FunctionId::named("command"));
        assert_eq!(FUNCTIONS, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"speckled.function"));
    }

    #[test]
    fn attempts_ascend() {
        assert!(AttemptNumber::FIRST.next() > AttemptNumber::FIRST);
        assert_eq!(AttemptNumber::new(0), None);
    }
}
