//! Texts that are no texts: NUL bytes, other encodings, other lexical modes, sheer length.

use super::super::{Classifier, LONGEST_TEXT};
use super::{catalog, fresh, render};

#[test]
fn what_cannot_be_read_goes_to_the_primary_and_keeps_its_connection() {
    let not_ready = "write:NotReady async pin(Settings)";
    assert_eq!(render(&fresh(b"SELECT '\xff'")), not_ready);
    assert_eq!(render(&fresh(b"SET a.b = '\xff'")), not_ready);
    assert_eq!(
        render(&fresh(b"INSERT INTO t VALUES ('\xff')")),
        "write:NotReady async"
    );
    assert_eq!(
        render(&fresh(b"INSERT INTO t VALUES ('\xff'); SET a.b = 1")),
        not_ready
    );
    let found = render(&fresh(b"SELECT 1\0; DELETE FROM t"));
    assert!(found.starts_with("write:"), "{found}");
    let found = render(&fresh(b"SELECT '\0'"));
    assert!(found.starts_with("write:"), "{found}");
}

#[test]
fn backslashes_in_plain_strings_are_not_guessed_at() {
    let text = br"SELECT '\'; DELETE FROM t; --'";
    let mut classifier = Classifier::new(16);
    let catalog = catalog();
    assert_eq!(
        render(&classifier.classify(text, &catalog, true)),
        "write:Command x2"
    );
    let text = br"SELECT 'a\' , nextval(''s'')'";
    assert_eq!(
        render(&classifier.classify(text, &catalog, false)),
        "write:NotReady async pin(Settings)"
    );
    assert_eq!(
        render(&classifier.classify(b"SELECT 'a'", &catalog, false)),
        "read"
    );
}

#[test]
fn long_texts_are_not_parsed() {
    let long = |head: &str, tail: &str| format!("{head}'{}'{tail}", "x".repeat(70 * 1024));
    let classified = |text: String| render(&fresh(text.as_bytes()));
    let pinned = "write:TooLarge async pin(Settings)";
    assert_eq!(classified(long("SELECT ", "")), pinned);
    assert_eq!(
        classified(long("INSERT INTO t SELECT ", ";")),
        "write:TooLarge async"
    );
    assert_eq!(
        classified(long("INSERT INTO t SELECT ", "; SET a.b=1")),
        pinned
    );
    assert_eq!(
        classified(long("/* a */ update t set a = ", "")),
        "write:TooLarge async"
    );
    let fits = format!("SELECT '{}'", "x".repeat(LONGEST_TEXT - 9));
    assert_eq!(fits.len(), LONGEST_TEXT);
    assert_eq!(classified(fits), "read");
}

#[test]
fn a_hint_belongs_to_its_text_alone() {
    let catalog = catalog();
    let mut classifier = Classifier::new(16);
    let mut level = |text: &str| {
        let found = classifier.classify(text.as_bytes(), &catalog, true);
        found.hint.as_ref().and_then(|hint| hint.consistency)
    };
    for _ in 0..2 {
        assert!(level("SELECT 1").is_none());
        assert!(level("/* causeway: consistency=primary */ SELECT 1").is_some());
        assert!(level("/* other */ SELECT 1").is_none());
        assert_ne!(
            level("/* causeway: consistency=primary */ SELECT 2"),
            level("/* causeway: consistency=eventual */ SELECT 2")
        );
    }
}
