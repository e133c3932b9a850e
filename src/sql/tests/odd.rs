//! Texts that are no texts: NUL bytes, other encodings, other lexical modes, sheer length.

use super::super::{Classifier, Encoding, LONGEST_TEXT, Lexical};
use super::{catalog, fresh, render};

#[test]
fn what_cannot_be_read_goes_to_the_primary_and_is_asked_about() {
    for (text, names) in [
        (&b"SELECT '\xff'"[..], ""),
        (b"SET a.b = '\xff'", "a.b"),
        (b"INSERT INTO t VALUES ('\xff'); SET a.b = 1", "a.b"),
    ] {
        let not_ready = format!("write:NotReady async opaque({names})");
        assert_eq!(render(&fresh(text)), not_ready);
    }
    let found = render(&fresh(b"SELECT 1\0; DELETE FROM t"));
    assert!(found.starts_with("write:"), "{found}");
    let found = render(&fresh(b"SELECT '\0'"));
    assert!(found.starts_with("write:"), "{found}");
}

#[test]
fn encodings_that_keep_ascii_are_read() {
    let catalog = catalog();
    let mut classifier = Classifier::new(16);
    let mut found = |text: &[u8], encoding| {
        let lexical = Lexical {
            standard_conforming_strings: true,
            encoding,
        };
        render(&classifier.classify(text, &catalog, lexical))
    };
    let latin = Encoding::named("latin1");
    assert_eq!(latin, Encoding::AsciiSafe);
    for _ in 0..2 {
        assert_eq!(found(b"SELECT 'caf\xe9' FROM t", latin), "read");
        assert_eq!(found(b"SELECT '\xc3\xa9' FROM t", latin), "read");
        assert_eq!(
            found("SELECT 'é' FROM t".as_bytes(), Encoding::Utf8),
            "read"
        );
    }
    assert_eq!(Encoding::named("UTF-8"), Encoding::Utf8);
    assert_eq!(Encoding::named("EUC_JP"), Encoding::AsciiSafe);
}

#[test]
fn bytes_that_only_look_like_ascii_are_part_of_their_characters() {
    let catalog = catalog();
    let mut classifier = Classifier::new(16);
    let mut found = |text: &[u8], encoding: &str| {
        let lexical = Lexical {
            standard_conforming_strings: true,
            encoding: Encoding::named(encoding),
        };
        render(&classifier.classify(text, &catalog, lexical))
    };
    // A backslash as second byte, which would escape the quote.
    let texts: [(&[u8], &str); 4] = [
        (b"SELECT E'\x95\x5c', nextval('s') FROM t", "SJIS"),
        (
            b"SELECT E'\xb1\x95\x5c', nextval('s') FROM t",
            "SHIFT_JIS_2004",
        ),
        (b"SELECT E'\xa5\x5c', nextval('s') FROM t", "BIG5"),
        (
            b"SELECT E'\x81\x30\x81\x30\x81\x5c', nextval('s') FROM t",
            "GB18030",
        ),
    ];
    for (text, encoding) in texts {
        for _ in 0..2 {
            let expected = "write:VolatileFunction draws";
            assert_eq!(found(text, encoding), expected, "{encoding}");
        }
    }
    for (text, expected) in [
        (&b"SELECT '\x95\x5c' FROM t"[..], "read"),
        (b"SELECT '\xb1' FROM t", "read"),
        (b"SELECT n FROM \x95\x5c", "write:NotReady"),
        (b"SELECT '\x95' FROM t", "write:NotReady async opaque()"),
        (b"SELECT '\x95", "write:NotReady async opaque()"),
        // What was translated is not repeated elsewhere.
        (
            b"SET search_path = '\x95\x5c'",
            "write:SessionState opaque()",
        ),
        (b"SET a.b = '\x95\x5c'", "write:SessionState opaque(a.b)"),
        (b"SET a.\x95\x5c = '1'", "write:SessionState opaque(*)"),
        (b"LISTEN \x95\x5c", "write:SessionState listen"),
    ] {
        assert_eq!(found(text, "SJIS"), expected, "{}", text.escape_ascii());
    }
    assert_eq!(found(b"SELECT '\x95\x5c' FROM t", "latin1"), "read");
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
        "write:NotReady async opaque()"
    );
    let text = br"DO $$ BEGIN PERFORM set_config('app.made', E'a\\b', false); END $$";
    assert_eq!(
        render(&classifier.classify(text, &catalog, false)),
        "write:NotReady async opaque(app.made)"
    );
    assert_eq!(
        render(&classifier.classify(b"SELECT 'a'", &catalog, false)),
        "read"
    );
}

#[test]
fn a_mebibyte_is_parsed_and_no_more() {
    let long = |head: &str, tail: &str| format!("{head}'{}'{tail}", "x".repeat(1024 * 1024));
    let classified = |text: String| render(&fresh(text.as_bytes()));
    let opaque = "write:TooLarge async opaque()";
    assert_eq!(classified(long("SELECT ", "")), opaque);
    assert_eq!(classified(long("INSERT INTO t SELECT ", ";")), opaque);
    let fits = format!("SELECT '{}'", "x".repeat(LONGEST_TEXT - 9));
    assert_eq!(fits.len(), LONGEST_TEXT);
    assert_eq!(classified(fits), "read");
    let numbers: Vec<_> = (100_000..140_000).map(|n| n.to_string()).collect();
    let list = format!("SELECT count(*) FROM t WHERE a IN ({})", numbers.join(","));
    assert_eq!(classified(list), "read");
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
