//! The parameters of an analysis, as `/xpcs/<analysis>/config` records them.
//!
//! A list of names and values, nothing more: what they mean is the caller's business.

use std::num::NonZeroU32;

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum SettingValue {
    /// Stored as 64-bit integer.
    Int(i64),
    /// Stored as 64-bit float.
    Float(f64),
    /// Stored as the enumeration FALSE, TRUE of 8-bit integers.
    Bool(bool),
    /// Stored as UTF-8 string.
    Text(String),
    /// Stored as a list of 64-bit integers.
    Ints(Vec<i64>),
}

impl From<i64> for SettingValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for SettingValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for SettingValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for SettingValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for SettingValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<i64>> for SettingValue {
    fn from(value: Vec<i64>) -> Self {
        Self::Ints(value)
    }
}

/// All parameters of an analysis, in the order in which they were set, each name once.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultSettings {
    entries: Vec<(String, SettingValue)>,
}

impl ResultSettings {
    /// The two parameters without which the viewer opens no result: every `stride`-th frame, `avg` averaged.
    pub fn new(stride: NonZeroU32, avg: NonZeroU32) -> Self {
        let mut settings = Self { entries: Vec::new() };
        settings.set("stride_frame", i64::from(stride.get()));
        settings.set("avg_frame", i64::from(avg.get()));
        settings
    }

    /// Sets a parameter; a second value of the same name replaces the first.
    pub fn set(&mut self, name: &str, value: impl Into<SettingValue>) -> &mut Self {
        let value = value.into();
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name.to_owned(), value)),
        }
        self
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SettingValue)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_place_and_takes_the_last_value() {
        let mut settings = ResultSettings::new(NonZeroU32::MIN, NonZeroU32::MIN);
        settings.set("smooth", "sqmap").set("stride_frame", 7).set("normalize_frame", true);
        let names: Vec<_> = settings.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["stride_frame", "avg_frame", "smooth", "normalize_frame"]);
        assert_eq!(settings.iter().next(), Some(("stride_frame", &SettingValue::Int(7))));
    }
}
