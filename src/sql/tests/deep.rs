//! No text, however deeply nested, takes more of the stack than a thread has.

use super::super::LONGEST_TEXT;
use super::{fresh, render};

/// What a thread of the runtime has.
const STACK: usize = 2 * 1024 * 1024;

/// Too deep for the parser is a write as well; what matters is to be there to say so.
fn survives(name: &str, text: &str) {
    let text = text.to_owned();
    let thread = std::thread::Builder::new().stack_size(STACK);
    let classified = thread
        .spawn(move || render(&fresh(text.as_bytes())))
        .unwrap();
    let found = classified.join().unwrap();
    assert!(
        found == "read"
            || found.starts_with("write:DoesNotParse")
            || found.starts_with("write:TooLarge")
            || found.starts_with("write:NotReady"),
        "{name}: {found}"
    );
}

fn nested(head: &str, open: &str, middle: &str, close: &str, depth: usize) -> String {
    format!(
        "{head}{}{middle}{}",
        open.repeat(depth),
        close.repeat(depth)
    )
}

#[test]
fn deep_texts_do_not_overflow_the_stack() {
    let kinds = [
        ("sum", "SELECT 1", "+1", "", ""),
        ("parentheses", "SELECT ", "(", "1", ")"),
        ("subselects", "", "(SELECT ", "1", ")"),
        (
            "subselects in FROM",
            "SELECT 1 FROM ",
            "(SELECT 1 FROM ",
            "t",
            ") a",
        ),
        ("NOT", "SELECT ", "NOT ", "true", ""),
        ("minus", "SELECT ", "- ", "1", ""),
        ("subscripts", "SELECT a", "[1]", " FROM t", ""),
        ("CASE", "SELECT ", "CASE WHEN true THEN ", "1", " END"),
        ("UNION", "SELECT 1", " UNION SELECT 1", "", ""),
        (
            "UNION ALL to the right",
            "",
            "SELECT 1 UNION ALL (",
            "SELECT 1",
            ")",
        ),
        ("AND", "SELECT true", " AND true", "", ""),
        ("AND and OR", "SELECT true", " AND true OR false", "", ""),
        ("casts", "SELECT 1", "::int", "", ""),
        ("calls", "SELECT ", "lower(", "'a'", ")"),
        ("COALESCE", "SELECT ", "COALESCE(", "1", ")"),
        ("arrays", "SELECT ", "ARRAY[", "1", "]"),
        ("joins", "SELECT FROM t", " CROSS JOIN t", "", ""),
        ("WITH", "", "WITH a AS (", "SELECT 1", ") SELECT 1"),
        ("IS NULL", "SELECT 1", " IS NULL", "", ""),
        ("COLLATE", "SELECT 'a'", " COLLATE a", "", ""),
        ("comments", "SELECT ", "/*", " ", "*/ 1"),
    ];
    for (name, head, open, middle, close) in kinds {
        let fits = (LONGEST_TEXT - 32) / (open.len() + close.len());
        for depth in [1_000, 10_000, fits, 60_000] {
            let text = nested(head, open, middle, close, depth);
            survives(name, &text);
        }
    }
}

#[test]
fn what_takes_the_square_of_its_length_is_not_parsed() {
    for (open, close) in [("/*", "*/"), ("-+", "1"), ("+-", "1")] {
        let text = nested("SELECT ", open, " ", close, 100_000);
        assert_eq!(
            render(&fresh(text.as_bytes())),
            "write:TooLarge async opaque()"
        );
    }
    let text = format!("SELECT '{}' FROM t", "-".repeat(200));
    assert_eq!(render(&fresh(text.as_bytes())), "read");
}

#[test]
fn ten_thousand_terms_are_a_read() {
    let text = nested("SELECT 1", "+1", "", "", 10_000);
    assert_eq!(render(&fresh(text.as_bytes())), "read");
    let text = nested("SELECT nextval('s')", "+1", "", "", 10_000);
    assert_eq!(
        render(&fresh(text.as_bytes())),
        "write:VolatileFunction draws"
    );
}
