//! Bearer tokens: `speckled_` and 32 random bytes in hexadecimal. The store keeps their SHA-256 only, which is enough
//! for secrets of full entropy: there is nothing to guess, and so nothing that a slow hash would protect.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use crate::runtime::secret::NoRandomness;
use crate::runtime::secret::SecretBytes;

/// Before each token, so that scanners for leaked secrets find it.
const PREFIX: &str = "speckled_";

/// A token's secret. Shown once, when it is made; never logged: its debug form hides it.
#[derive(Clone)]
pub struct Secret(SecretBytes);

/// A text that is no token. It does not say what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is not a token; give one that `speckled token create` printed")]
pub struct NoToken;

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The system's source of random numbers fails.
    pub fn generate() -> Result<Self, NoRandomness> {
        SecretBytes::generate().map(Self)
    }

    /// What the store keeps, and finds the token by.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest().0
    }

    /// The text that its holder keeps.
    pub fn reveal(&self) -> String {
        self.0.reveal(PREFIX)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl FromStr for Secret {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        SecretBytes::parse(PREFIX, text).map(Self).map_err(|_| NoToken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_found_by_its_digest_and_never_shown_by_accident() {
        let secret = Secret::generate().expect("random numbers");
        let read: Secret = secret.reveal().parse().expect("our own");
        assert_eq!(read.digest(), secret.digest());
        assert_ne!(Secret::generate().expect("random numbers").digest(), secret.digest());
        assert!(!format!("{secret:?}").contains(&secret.reveal()[PREFIX.len()..]));
    }

    proptest! {
        #[test]
        fn only_one_text_is_a_token(text in prop_oneof![".*", "speckled_[0-9a-fA-F]{62,66}"]) {
            match text.parse::<Secret>() {
                Ok(secret) => prop_assert_eq!(secret.reveal(), text),
                Err(error) => prop_assert!(text.is_empty() || !error.to_string().contains(&text) || text.len() < 3),
            }
        }
    }
}
