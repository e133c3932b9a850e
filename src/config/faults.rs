//! What is wrong with a configuration: where, which key, and what would be right.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named by whoever asked for it.
    pub file: String,
    /// The line, counted from 1; none when the file could not be read at all.
    pub line: Option<usize>,
    /// The key with the sections around it, such as `nodes[0].port`; empty for the whole file.
    pub key: String,
    /// What is wrong and what would be right; never a secret.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Every fault of a configuration, at least one, by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.line);
        Self(faults)
    }

    /// The faults, by line.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The one of `known` that was most likely meant by `typed`, if any is near enough to be a typo.
pub(super) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|&name| (strsim::osa_distance(&typed, &name.replace('-', "_")), name))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_key_and_a_different_word_finds_none() {
        let known = ["catchup_wait", "max_lag", "weight", "zone", "size"];
        assert_eq!(nearest("catchup_wiat", &known), Some("catchup_wait"));
        assert_eq!(nearest("Catchup-Wait", &known), Some("catchup_wait"));
        assert_eq!(nearest("max_lags", &known), Some("max_lag"));
        assert_eq!(nearest("szie", &known), Some("size"));
        assert_eq!(nearest("tls", &known), None);
        assert_eq!(nearest("failover", &known), None);
    }
}
