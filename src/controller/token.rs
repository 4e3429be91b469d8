//! Bearer tokens: `speckled_` and 32 random bytes in hexadecimal. The store keeps their SHA-256 only, which is enough
//! for secrets of full entropy: there is nothing to guess, and so nothing that a slow hash would protect.

use std::fmt;
use std::str::FromStr;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Before each token, so that scanners for leaked secrets find it.
const PREFIX: &str = "speckled_";

/// Random bytes of a token.
const BYTES: usize = 32;

/// A token's secret. Shown once, when it is made; never logged: its debug form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; BYTES]);

/// A text that is no token. It does not say what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is not a token; give one that `speckled token create` printed")]
pub struct NoToken;

/// The system has no random numbers.
#[derive(Debug, Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness(#[source] rand::rand_core::OsError);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The system's source of random numbers fails.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
        Ok(Self(bytes))
    }

    /// What the store keeps, and finds the token by.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The text that its holder keeps.
    pub fn reveal(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once(PREFIX.to_owned()).chain(digits).collect()
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
        let digits = text.strip_prefix(PREFIX).ok_or(NoToken)?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let mut bytes = [0; BYTES];
        if pairs.len() != BYTES || !rest.is_empty() {
            return Err(NoToken);
        }
        for (byte, [high, low]) in std::iter::zip(&mut bytes, pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

/// Lower-case digits only, so that a token has one text.
fn nibble(digit: u8) -> Result<u8, NoToken> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NoToken),
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
