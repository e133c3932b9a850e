//! Every statement of the two tables is classified as they say, cold, warm, and on a catalogue
//! that has not been read.

use super::super::{Catalog, Classifier};
use super::{catalog, fresh, render};
use crate::core::statement::{Access, WriteReason};

const TABLES: [&str; 2] = [include_str!("queries.txt"), include_str!("commands.txt")];

/// What is expected, and of which text.
pub(super) fn rows() -> Vec<(String, String)> {
    let lines = TABLES.iter().flat_map(|table| table.lines());
    let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows = rows.map(|line| line.split_once(" | ").unwrap());
    rows.map(|(expected, text)| (expected.replace('↵', "\n"), text.replace('↵', "\n")))
        .collect()
}

#[test]
fn statements_are_classified_as_the_tables_say() {
    let rows = rows();
    assert!(rows.len() > 300);
    let wrong: Vec<_> = rows
        .iter()
        .filter_map(|(expected, text)| {
            let found = render(&fresh(text.as_bytes()));
            (found != *expected).then(|| format!("{text}\n   want {expected}\n   have {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_remembered_is_what_would_be_found_afresh() {
    let catalog = catalog();
    let rows = rows();
    let mut classifier = Classifier::new(4096);
    for _ in 0..2 {
        for (expected, text) in &rows {
            let found = classifier.classify(text.as_bytes(), &catalog, true);
            assert_eq!(render(&found), *expected, "{text}");
        }
    }
}

#[test]
fn without_a_catalogue_only_reads_that_name_nothing_are_reads() {
    let mut classifier = Classifier::new(16);
    let mut classify = |text: &str, catalog: &Catalog| {
        let found = classifier.classify(text.as_bytes(), catalog, true);
        (found.access, found.write_reason)
    };
    let read = (Access::Read, None);
    let not_ready = (Access::Write, Some(WriteReason::NotReady));
    assert_eq!(classify("SELECT 1", &Catalog::empty()), read);
    assert_eq!(
        classify("WITH w AS (SELECT 1) TABLE w", &Catalog::empty()),
        read
    );
    assert_eq!(classify("SELECT a FROM t", &Catalog::empty()), not_ready);
    assert_eq!(classify("SELECT now()", &Catalog::empty()), not_ready);
    assert_eq!(classify("SELECT now()", &catalog()), read);
}

#[test]
fn what_a_standby_refused_stays_a_write() {
    let catalog = catalog();
    let mut classifier = Classifier::new(16);
    let mut reason = |text: &str, refuse: bool| {
        if refuse {
            classifier.refused_by_standby(text.as_bytes(), true);
        }
        classifier
            .classify(text.as_bytes(), &catalog, true)
            .write_reason
    };
    let refused = Some(WriteReason::RefusedByStandby);
    assert_eq!(reason("SELECT a FROM v WHERE b = 1", false), None);
    assert_eq!(reason("SELECT a FROM v WHERE b = 1", true), refused);
    assert_eq!(reason("SELECT a FROM v WHERE b = 2", false), refused);
    assert_eq!(reason("SELECT a FROM u WHERE b = 2", false), None);
    assert_eq!(reason("SELECT U&'x' FROM v", true), refused);
    assert_eq!(reason("SELECT U&'y' FROM v", false), None);
    assert_eq!(
        reason("DELETE FROM v", true),
        Some(WriteReason::Command),
        "a write keeps its reason"
    );
}

#[test]
fn what_a_standby_refused_is_forgiven() {
    let catalog = catalog();
    let mut classifier = Classifier::new(16);
    let text = b"SELECT a FROM v";
    assert_eq!(render(&classifier.classify(text, &catalog, true)), "read");
    classifier.refused_by_standby(text, true);
    let refused = classifier.classify(text, &catalog, true);
    assert_eq!(refused.write_reason, Some(WriteReason::RefusedByStandby));
    let changed = Catalog::from_rows(2, &super::rows());
    assert_eq!(render(&classifier.classify(text, &changed, true)), "read");
}
