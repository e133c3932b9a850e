//! Whether two answers are the same: what the server makes up is masked, what is documented is named.

use crate::script::Act;
use crate::wire::{CLOSED, Frame, LATE};

/// What a comparison finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// They differ as the documentation says; what follows cannot be compared any more.
    Documented(&'static str),
    /// They differ; in a few words, how.
    Differ(String),
}

/// A difference that an application is told of beforehand.
struct Documented {
    reason: &'static str,
    /// Only of a transaction that keeps a snapshot, a cursor or a portal.
    stays: bool,
    is_it: fn(&Act, &Frame, &Frame) -> bool,
}

/// Each of these is in the README; there must be few.
const DOCUMENTED: &[Documented] = &[
    Documented {
        reason: "lastval() and currval() may say that this session has called no nextval() yet, once \
             its transaction has ended: what they answer lives on a server connection. A wrong \
             value is never documented",
        stays: false,
        is_it: |act, direct, proxied| {
            let asks = |text: &&str| text.contains("lastval()") || text.contains("currval(");
            let may_be_prepared = matches!(act, Act::Extended { .. });
            direct.tag == b'D'
                && is_error(proxied, "55000")
                && (may_be_prepared || act.texts().iter().any(asks))
        },
    },
    Documented {
        reason: "a READ ONLY transaction that keeps a snapshot or a cursor on a standby stays there: what \
             needs the primary after that is refused",
        stays: true,
        is_it: |act, direct, proxied| {
            let recovery = proxied
                .field(b'M')
                .is_some_and(|text| text.ends_with("during recovery"));
            // In one pipeline with the transaction's end.
            let behind = matches!(act, Act::Extended { .. })
                && direct.tag != b'E'
                && proxied
                    .field(b'M')
                    .is_some_and(|text| text.ends_with("in a read-only transaction"));
            // Before anybody looks for other faults in it.
            (recovery || behind) && (is_error(proxied, "25006") || is_error(proxied, "0A000"))
        },
    },
    Documented {
        reason: "a prepared statement that the session has never described is prepared anew where its \
             columns have changed since, and not refused",
        stays: false,
        is_it: |act, direct, proxied| {
            let outdated = is_error(direct, "0A000")
                && direct.field(b'R').as_deref() == Some("RevalidateCachedQuery");
            // A pipeline may be answered as late as with the query behind it.
            let extended = matches!(act, Act::Extended { .. }) || proxied.tag == b'2';
            extended && outdated && proxied.tag != b'E'
        },
    },
    Documented {
        reason: "in a text or pipeline that resets application_name, what follows in it finds the server's \
             default, and not the name that the client gave at its login",
        stays: false,
        is_it: |act, direct, proxied| {
            let resets = |text: &&str| {
                text.starts_with("RESET ALL")
                    || text.starts_with("RESET application_name")
                    || text.starts_with("SET application_name TO DEFAULT")
            };
            // The name, and nothing else, is no longer there.
            let (direct, proxied) = (direct.columns(), proxied.columns());
            let empty = |column: &Option<String>| column.as_deref() == Some("");
            let named = |column: &Option<String>| column.as_deref() == Some("fuzz start");
            let may_be_prepared = matches!(act, Act::Extended { .. });
            (may_be_prepared || act.texts().iter().any(resets))
                && direct.len() == proxied.len()
                && (direct.iter().zip(&proxied))
                    .all(|(one, other)| one == other || named(one) && empty(other))
                && direct != proxied
        },
    },
    Documented {
        reason: "what was parsed and flushed, and never run, takes no snapshot that a SET TRANSACTION behind it \
             would come too late for",
        stays: false,
        is_it: |act, direct, proxied| {
            let sets = |text: &&str| text.starts_with("SET TRANSACTION ISOLATION LEVEL");
            is_error(direct, "25001") && proxied.tag == b'C' && act.texts().iter().any(sets)
        },
    },
    Documented {
        reason: "an error about a statement that the session has prepared twice under two names may bear either",
        stays: false,
        is_it: |_, direct, proxied| {
            let without_names = |frame: &Frame| {
                let message = frame.field(b'M').unwrap_or_default();
                ["n0", "n1", "n2"].iter().fold(message, |message, name| {
                    message.replace(
                        &format!("prepared statement \"{name}\""),
                        "a prepared statement",
                    )
                })
            };
            direct.tag == b'E'
                && proxied.tag == b'E'
                && direct.field(b'C') == proxied.field(b'C')
                && direct.field(b'R') == proxied.field(b'R')
                && without_names(direct) == without_names(proxied)
                && direct.field(b'M') != proxied.field(b'M')
        },
    },
    Documented {
        reason: "a prepared statement that is described after search_path has changed is parsed by that: what it \
             speaks of must be there, also where it returns no rows",
        stays: false,
        is_it: |act, direct, proxied| {
            let may_describe = matches!(act, Act::Extended { .. });
            may_describe && direct.tag == b't' && is_error(proxied, "42P01")
        },
    },
    Documented {
        reason: "in a failed transaction a statement that its server connection has yet to parse is \
             refused for the transaction's sake, before its own faults are looked at",
        stays: false,
        is_it: |_, direct, proxied| {
            matches!(direct.tag, b'E' | b't' | b'T' | b'n' | b'2') && is_error(proxied, "25P02")
        },
    },
];

/// From here on objects are a user's own, and their numbers chance.
const FIRST_OWN_OID: u32 = 16_384;

/// Compares the two answers to one step; `stays` if it is of a transaction that keeps a snapshot, a cursor
/// or a portal.
pub fn compare(act: &Act, direct: &[Frame], proxied: &[Frame], stays: bool) -> Verdict {
    let (direct, proxied) = (masked(act, direct), masked(act, proxied));
    if direct == proxied {
        return Verdict::Same;
    }
    let alike = direct.iter().zip(&proxied);
    let alike = alike.take_while(|(one, other)| one == other).count();
    let end = Frame::mark(b'-');
    let before = &direct[..alike];
    let (direct, proxied) = (direct.get(alike), proxied.get(alike));
    let (direct, proxied) = (direct.unwrap_or(&end), proxied.unwrap_or(&end));
    let known =
        |known: &&Documented| (stays || !known.stays) && (known.is_it)(act, direct, proxied);
    if let Some(known) = DOCUMENTED.iter().find(known) {
        return Verdict::Documented(known.reason);
    }
    let (was, became) = (word(direct), word(proxied));
    let columns = columns_that_differ(before, direct, proxied);
    Verdict::Differ(format!("{was} became {became}{columns}"))
}

/// The names of the columns in which two rows differ, where the rows were described.
fn columns_that_differ(before: &[Frame], direct: &Frame, proxied: &Frame) -> String {
    let (one, other) = (direct.columns(), proxied.columns());
    let described = before.iter().rfind(|frame| frame.tag == b'T');
    let Some(described) = described.filter(|_| direct.tag == b'D' && proxied.tag == b'D') else {
        return String::new();
    };
    let fields = described.fields();
    let values = one.iter().zip(&other).zip(&fields);
    let names = values.filter(|((one, other), _)| one != other);
    let names: Vec<_> = names.map(|(_, field)| field.as_str()).collect();
    format!(" in {}", names.join(", "))
}

/// What kind of frame it is, in a word.
fn word(frame: &Frame) -> String {
    match frame.tag {
        CLOSED => "the end".to_owned(),
        LATE => "silence".to_owned(),
        b'E' | b'N' => {
            let code = frame.field(b'C').unwrap_or_default();
            format!("{}[{code}]", char::from(frame.tag))
        }
        b'S' => format!("S[{}]", frame.strings().swap_remove(0)),
        b'Z' => format!("Z[{}]", String::from_utf8_lossy(&frame.body)),
        tag => char::from(tag).to_string(),
    }
}

fn is_error(frame: &Frame, code: &str) -> bool {
    frame.tag == b'E' && frame.field(b'C').is_some_and(|field| field == code)
}

fn masked(act: &Act, frames: &[Frame]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = frames.iter().map(mask).collect();
    if matches!(act, Act::Connect(_)) {
        // No client cares in which order it is greeted.
        frames.sort_by(|one, other| (one.tag, &one.body).cmp(&(other.tag, &other.body)));
    }
    frames
}

fn mask(frame: &Frame) -> Frame {
    let body = match frame.tag {
        b'T' => row_description(&frame.body).unwrap_or_else(|| frame.body.clone()),
        b't' => parameters(&frame.body).unwrap_or_else(|| frame.body.clone()),
        b'E' if is_error(frame, "25P02") => without_location(&frame.body),
        _ => frame.body.clone(),
    };
    Frame {
        tag: frame.tag,
        body,
    }
}

/// A failed transaction refuses every message alike, and which of them was the first is told only by the
/// place in PostgreSQL's source: a statement may have to be parsed anew before it is bound.
fn without_location(body: &[u8]) -> Vec<u8> {
    let fields = body.split(|byte| *byte == 0);
    let kept = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
    kept.collect::<Vec<_>>().join(&0)
}

fn own_oid(oid: [u8; 4]) -> [u8; 4] {
    let number = u32::from_be_bytes(oid);
    number.min(FIRST_OWN_OID).to_be_bytes()
}

/// Fields with the numbers of their tables and types masked.
fn row_description(body: &[u8]) -> Option<Vec<u8>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut masked = count.to_vec();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0)? + 1;
        let (name, after) = rest.split_at(end);
        let (table, after) = after.split_first_chunk::<4>()?;
        let (attribute, after) = after.split_first_chunk::<2>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (others, after) = after.split_first_chunk::<8>()?;
        masked.extend_from_slice(name);
        masked.extend_from_slice(&own_oid(*table));
        masked.extend_from_slice(attribute);
        masked.extend_from_slice(&own_oid(*kind));
        masked.extend_from_slice(others);
        rest = after;
    }
    Some(masked)
}

fn parameters(body: &[u8]) -> Option<Vec<u8>> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    let (oids, []) = rest.as_chunks::<4>() else {
        return None;
    };
    let oids = oids.iter().flat_map(|oid| own_oid(*oid));
    Some(count.iter().copied().chain(oids).collect())
}
