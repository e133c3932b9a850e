//! Texts of one shape are classified alike, and only literals, comments and blanks are left out.

use proptest::prelude::*;

use super::super::shape::Scanner;
use super::super::{Classifier, hint};
use super::table::rows;
use super::{catalog, fresh};
use crate::core::statement::WriteReason;

fn shape(text: &[u8]) -> Option<Vec<u8>> {
    let mut scanner = Scanner::default();
    scanner.scan(&[], text).ok()?;
    Some(scanner.shape().to_vec())
}

#[test]
fn literals_comments_and_blanks_do_not_matter() {
    let alike: &[&[&str]] = &[
        &["SELECT 1", "SELECT 23"],
        &[
            "SELECT 1",
            "SELECT 0x1F",
            "SELECT 1_000",
            " SELECT\t1",
            "SELECT/**/1 ",
            "SELECT -- a\n1",
        ],
        &[
            "SELECT 1.5",
            "SELECT 1e10",
            "SELECT .5",
            "SELECT 99999999999",
            "SELECT 5.",
            "SELECT 1_0.0_1e-5",
        ],
        &[
            "SELECT 'a'",
            "SELECT E'a\\'b'",
            "SELECT $$a'b$$",
            "SELECT $a$ $b$ $$ $a$",
            "SELECT 'a'\n'b'",
            "SELECT 'a' -- x\n  'b'",
            "SELECT ''''",
        ],
        &["SELECT b'01'", "SELECT X'ff'"],
        &["a IN (1, 2)", "a IN (1, 2, 3)", "a IN ($1, $2)"],
        &["a /* /* */ ' */ b", "a b", "a\nb"],
        &["SELECT ARRAY[1,2]", "SELECT ARRAY[1,2,3]"],
    ];
    for texts in alike {
        for text in *texts {
            assert_eq!(shape(text.as_bytes()), shape(texts[0].as_bytes()), "{text}");
            assert!(shape(text.as_bytes()).is_some(), "{text}");
        }
    }
}

#[test]
fn whatever_else_differs_does_matter() {
    let different = [
        "SELECT a",
        "SELECT A",
        "SELECT \"a\"",
        "SELECT $1",
        "SELECT $2",
        "SELECT 1",
        "SELECT 1.0",
        "SELECT '1'",
        "SELECT b'1'",
        "SELECT n'1'",
        "SELECT -1",
        "SELECT - 1",
        "SELECT a->b",
        "SELECT a->>b",
        "SELECT a - > b",
        "SELECT a@>b",
        "SELECT 'a' 'b'",
        "SELECT 'a'",
        "SELECT a LIMIT 1",
        "SELECT a LIMIT ALL",
        "SELECT f(1)",
        "SELECT f(1, 2)",
        "SELECT f('a', 'b', true)",
        "SELECT f('a', 'b', false)",
        "SELECT a IN (1)",
        "SELECT a IN (1, 2)",
        "SELECT a IN (1, f())",
        "SELECT a IN (1, b)",
        "SELECT a[1:2]",
        "SELECT a[1]",
        "SELECT a$$b$$",
        "SELECT a $$b$$",
        "SELECT \"\u{1}\"",
        "SELECT \"a\"\"b\"",
    ];
    let shapes: Vec<_> = different
        .iter()
        .map(|text| shape(text.as_bytes()))
        .collect();
    for (index, found) in shapes.iter().enumerate() {
        let Some(found) = found else {
            panic!("{}", different[index])
        };
        for (other, twin) in shapes[..index].iter().enumerate() {
            // A string of one kind is a string of another.
            if twin.as_ref() == Some(found) {
                assert_eq!(
                    [different[other], different[index]],
                    ["SELECT '1'", "SELECT 'a'"]
                );
            }
        }
    }
}

#[test]
fn what_is_odd_has_no_shape() {
    for text in [
        "SELECT U&'a'",
        "SELECT u&\"a\"",
        "SELECT 1x",
        "SELECT 1e",
        "SELECT 0x",
        "SELECT 'a",
        "SELECT \"a",
        "SELECT $a$",
        "SELECT /* /* */",
        "SELECT E'\\x41'",
        "SELECT E'\\u0041'",
        "SELECT \u{1}",
        "SELECT '\0'",
        "SELECT $1a",
        "SELECT 1__0",
        "SELECT E'a\\",
    ] {
        assert_eq!(shape(text.as_bytes()), None, "{text}");
    }
}

/// A text of the tables with other literals, other blanks and comments thrown in.
fn disguised(text: &str, seed: &[u8]) -> String {
    let mut seed = seed.iter().cycle();
    let mut next = || usize::from(*seed.next().unwrap_or(&0));
    let mut result = String::new();
    let mut inside: Option<char> = None;
    for character in text.chars() {
        match inside {
            Some(quote) if character == quote => inside = None,
            None if matches!(character, '\'' | '"') => inside = Some(character),
            // A line break after a string would join the next one to it.
            None if character == ' ' && !result.ends_with('\'') => {
                result += [" ", "  ", "\n", "\t", "/**/", " /* ' */ ", " -- \"\n"][next() % 7];
                continue;
            }
            None if character.is_ascii_digit() => {
                let before = result.chars().last().unwrap_or(' ');
                if before == ' ' || before == '(' {
                    result.push(['1', '7', '9'][next() % 3]);
                    continue;
                }
            }
            _ => {}
        }
        result.push(character);
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_scanner_takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = shape(&bytes);
        let _ = hint::find(&bytes).map(hint::parse);
    }

    #[test]
    fn the_scanner_takes_anything_that_looks_like_sql(
        tokens in proptest::collection::vec(proptest::sample::select(vec![
            "'", "''", "\"", "$$", "$a$", "$1", "/*", "*/", "--", "\n", "E'", "U&'", "x'", "\\", "1", "0x", ".",
            "e5", "_", "IN", "(", ")", "[", "]", ",", ";", " ", "a", "é", "\u{1}", "/* causeway: consistency=",
        ]), 0..40)
    ) {
        let text = tokens.concat();
        let _ = shape(text.as_bytes());
        let _ = fresh(text.as_bytes());
    }

    #[test]
    fn what_is_remembered_for_a_shape_holds_for_all_its_texts(seed in proptest::collection::vec(any::<u8>(), 1..20)) {
        let catalog = catalog();
        let mut classifier = Classifier::new(4096);
        for (_, text) in rows() {
            classifier.classify(text.as_bytes(), &catalog, true);
        }
        for (_, text) in rows() {
            if text.contains("--") || text.contains("/*") {
                continue;
            }
            let text = disguised(&text, &seed);
            let warm = classifier.classify(text.as_bytes(), &catalog, true);
            let cold = fresh(text.as_bytes());
            // The parser, unlike PostgreSQL's own, refuses a comment between two words that it
            // reads as one (`NOT /**/ IN`, `NULLS /**/ FIRST`): the shape may know better.
            if cold.write_reason == Some(WriteReason::DoesNotParse)
                && (text.contains("/*") || text.contains("--"))
            {
                continue;
            }
            prop_assert_eq!(&*warm, &*cold, "{}", text);
        }
    }

    #[test]
    fn texts_of_one_shape_are_classified_alike(
        tokens in proptest::collection::vec(proptest::sample::select(vec![
            "1", "2.5", "'a'", "$$b$$", "E'c'", "true", "false", "$1", "a", ",", "set_config('a', 'b',", "lower(",
            ")", "nextval(", "-", "->>", "@>", "IN (1, 2)", "IN (", "ARRAY[", "]", "FROM t", "LIMIT 1", "LIMIT ALL",
            "FOR UPDATE", "; SELECT", "::int", "'x'\n'y'", "99999999999", "NULL",
        ]), 1..12),
        other in proptest::collection::vec(any::<u8>(), 1..8)
    ) {
        let text = format!("SELECT {}", tokens.join(" "));
        let twin = disguised(&text, &other);
        let catalog = catalog();
        let mut classifier = Classifier::new(16);
        classifier.classify(text.as_bytes(), &catalog, true);
        let warm = classifier.classify(twin.as_bytes(), &catalog, true);
        let cold = fresh(twin.as_bytes());
        if cold.write_reason != Some(WriteReason::DoesNotParse) {
            prop_assert_eq!(&*warm, &*cold);
        }
        if let (Some(one), Some(two)) = (shape(text.as_bytes()), shape(twin.as_bytes())) {
            prop_assert_eq!(one, two, "{} {}", text, twin);
        }
    }
}
