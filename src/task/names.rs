//! Texts from outside that name things: checked once, here, so that they can be shown and stored everywhere.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("the {kind} is empty; give 1 to {most} characters")]
    Empty {
        /// What the text was to name.
        kind: &'static str,
        /// The longest that is allowed.
        most: usize,
    },
    /// Too much.
    #[error("the {kind} has {found} characters; at most {most} are allowed")]
    Long {
        /// What the text was to name.
        kind: &'static str,
        /// Its length.
        found: usize,
        /// The longest that is allowed.
        most: usize,
    },
    /// A character that could pass for something else.
    #[error("the {kind} {shown:?} has the character {character:?}; {allowed}")]
    Character {
        /// What the text was to name.
        kind: &'static str,
        /// Its beginning.
        shown: String,
        /// The character.
        character: char,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// A text from outside that names nothing here, fit to be shown: without characters that act on a terminal, at most `most`
/// others.
pub fn printable(text: &str, most: usize) -> String {
    text.chars().filter(|&c| !acts(c)).take(most).collect()
}

/// A text with what acts on a terminal or on the order of other characters written as `\\u001b`, as JSON has it; lines and
/// tabs stay.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| acts(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_harmful(c) {
            true => shown.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Whether a character does something to the text around it instead of showing: it moves a cursor, ends a line, or turns
/// the order of what follows (Unicode Standard Annex 9, the explicit formatting characters; two line separators).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $most:literal, $allowed:literal, $fits:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text, $kind, $most, $allowed, $fits)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// What a flow calls a submission, so that a repeated one makes no second task.
    RequestId, "request id", 256, "printable ASCII is allowed", |c| c.is_ascii_graphic() || c == ' '
);
name!(
    /// What people call a task or action. Any language, but nothing that moves a terminal's cursor or turns the order of text.
    Label, "label", 128, "characters that control how text is shown are not allowed", |c| !acts(c)
);
name!(
    /// An endpoint's name: also a file name, so that it begins with a letter or digit and has no slash.
    EndpointName, "endpoint name", 64, "letters, digits, '-', '_' and '.' are allowed, the first a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
name!(
    /// A command's name in an endpoint's configuration.
    TemplateName, "command name", 64, "letters, digits, '-', '_' and '.' are allowed, the first a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
name!(
    /// Who submits: the holder of a token, as `name` or `urn:globus:auth:identity:...`.
    Subject, "subject", 256, "printable ASCII without spaces is allowed", |c| c.is_ascii_graphic()
);
name!(
    /// A group of people who see each other's tasks.
    Group, "group", 128, "printable ASCII without spaces is allowed", |c| c.is_ascii_graphic()
);

name!(
    /// An artifact's name: a file name without a directory, that begins with a letter or digit.
    ArtifactName, "artifact name", 128, "letters, digits, '-', '_' and '.' are allowed, the first a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
name!(
    /// What kind of file an artifact is, such as `image/png` (RFC 6838).
    MediaType, "media type", 127, "letters, digits and '/!#$&^_.+-' are allowed",
    |c| c.is_ascii_alphanumeric() || "/!#$&^_.+-".contains(c)
);

fn check(
    text: &str,
    kind: &'static str,
    most: usize,
    allowed: &'static str,
    fits: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    let found = text.chars().count();
    if found == 0 {
        return Err(NameError::Empty { kind, most });
    }
    if found > most {
        return Err(NameError::Long { kind, found, most });
    }
    // a name that begins with a dot or dash is a hidden file or an option to some program
    let first = matches!(kind, "endpoint name" | "command name" | "artifact name") && text.starts_with(['.', '-', '_']);
    let wrong = if first { text.chars().next() } else { text.chars().find(|&c| !fits(c)) };
    wrong.map_or(Ok(()), |character| {
        let shown = text.chars().take(32).collect();
        Err(NameError::Character { kind, shown, character, allowed })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_shown_as_what_it_is() {
        let text = "a\u{1b}[2Jb\u{9b}\u{202e}c\u{2069}\n\td\r\u{7f}é漢\u{200d}";
        assert_eq!(harmless(text), "a\\u001b[2Jb\\u009b\\u202ec\\u2069\n\td\\u000d\\u007fé漢\u{200d}");
        assert_eq!(printable(text, usize::MAX), "a[2Jbcdé漢\u{200d}");
        assert!(matches!(harmless("one\ntwo\té"), Cow::Borrowed(_)));
        let json = serde_json::json!({ "path": "/a\u{9b}\u{202e}" }).to_string();
        let read: serde_json::Value = serde_json::from_str(&harmless(&json)).expect("the same document");
        assert_eq!(read["path"], "/a\u{9b}\u{202e}");
    }

    #[test]
    fn what_could_mislead_is_refused() {
        for text in ["", ".hidden", "-x", "a/b", "a b", "ä", &"a".repeat(65)] {
            let error = text.parse::<EndpointName>().expect_err(text).to_string();
            assert!(error.contains("endpoint name"), "{error}");
        }
        assert!("polaris-1.gpu".parse::<EndpointName>().is_ok());
        assert!("../a.png".parse::<ArtifactName>().is_err() && "a_g2.png".parse::<ArtifactName>().is_ok());
        assert!(
            "text/html; charset=utf-8".parse::<MediaType>().is_err() && "image/svg+xml".parse::<MediaType>().is_ok()
        );
        assert!("two\nlines".parse::<Label>().is_err() && "\x1b[2J".parse::<Label>().is_err());
        assert!("\u{202e}gnp.exe".parse::<Label>().is_err(), "right to left");
        assert!("Probe 7, größer".parse::<Label>().is_ok());
        let error = serde_json::from_str::<Label>("\"\"").expect_err("an empty label").to_string();
        assert!(error.contains("the label is empty"), "{error}");
    }
}
