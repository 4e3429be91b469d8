//! Secrets that programs show each other: 32 random bytes, written in hexadecimal after a prefix that says what kind
//! they are. Knows no kind; keeps no file.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Random bytes of a secret: nobody guesses them, so that their hash needs no salt and no slow function.
const BYTES: usize = 32;

/// A secret. Never logged: its debug form hides it.
#[derive(Clone)]
pub struct SecretBytes([u8; BYTES]);

/// The SHA-256 of a secret. Whoever compares digests tells by the time that takes nothing about the secret: who does
/// not know it cannot choose what its digest begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretDigest(pub [u8; 32]);

/// A text that is no secret. It does not say what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is no secret")]
pub struct NoSecret;

/// The system has no random numbers.
#[derive(Debug, Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness(#[source] rand::rand_core::OsError);

impl SecretBytes {
    /// A new one.
    ///
    /// # Errors
    /// The system's source of random numbers fails.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
        Ok(Self(bytes))
    }

    /// What is kept where the secret itself is not to be, and what it is found by.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest(Sha256::digest(self.0).into())
    }

    /// The text that its holder keeps.
    pub fn reveal(&self, prefix: &str) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once(prefix.to_owned()).chain(digits).collect()
    }

    /// The secret that a text with this prefix has. A secret has one text.
    ///
    /// # Errors
    /// It has none.
    pub fn parse(prefix: &str, text: &str) -> Result<Self, NoSecret> {
        let digits = text.strip_prefix(prefix).ok_or(NoSecret)?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let mut bytes = [0; BYTES];
        if pairs.len() != BYTES || !rest.is_empty() {
            return Err(NoSecret);
        }
        for (byte, [high, low]) in std::iter::zip(&mut bytes, pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(hidden)")
    }
}

/// Lower-case digits only.
fn nibble(digit: u8) -> Result<u8, NoSecret> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NoSecret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_text_and_one_kind() {
        let secret = SecretBytes::generate().expect("random numbers");
        let text = secret.reveal("a_");
        assert_eq!(SecretBytes::parse("a_", &text).expect("our own").digest(), secret.digest());
        // in capitals it would be another text of the same secret
        let capitals = format!("a_{}A", text[2..text.len() - 1].to_uppercase());
        for other in [&text[1..], &text[..text.len() - 1], &format!("{text}0"), &capitals] {
            assert!(SecretBytes::parse("a_", other).is_err(), "{other}");
        }
        assert!(SecretBytes::parse("b_", &text).is_err());
        assert!(!format!("{secret:?}").contains(&text[2..]));
    }
}
