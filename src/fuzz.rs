//! Where bytes from outside are taken apart, for any bytes: what cannot be made sense of is refused, and
//! nothing panics. `fuzz/` has a target for each function, and a test tries a small corpus.

use crate::backend::prepared::Shape;
use crate::client::gather_any;
use crate::core::residue::Residue;
use crate::sql::{Catalog, Classifier, Encoding, Lexical, scan_any};
use crate::wire::auth::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramExchange, Verifier};
use crate::wire::frame::{self, Walker};
use crate::wire::reply::{error_field, error_text};
use crate::wire::startup;

/// A stream of frames, walked at once and in parts; and each frame's body as if it were a message of any kind.
pub fn frames(data: &[u8]) {
    let Some((&part, stream)) = data.split_first() else {
        return;
    };
    let walk = |part: usize| {
        let (mut walker, mut seen, mut carry) = (Walker::default(), 0, Vec::new());
        for bytes in stream.chunks(part) {
            carry.extend_from_slice(bytes);
            let mut at = 0;
            loop {
                match walker.next(&carry, &mut at, |tag| tag == b'D') {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return (seen + at, true),
                }
            }
            carry.drain(..at);
            seen += at;
        }
        (seen, false)
    };
    let at_once = walk(stream.len().max(1));
    let in_parts = walk(usize::from(part) + 1);
    // What is not seen is the beginning of a frame that has to come whole.
    assert_eq!(at_once, in_parts);
    if let Ok(Some((_, size))) = frame::peek(stream) {
        let body = stream.get(frame::HEADER..size.min(stream.len()));
        let body = body.unwrap_or_default();
        let raw = frame::raw_row(body);
        assert_eq!(
            raw.map(|row| row.len()),
            frame::row(body).map(|row| row.len())
        );
        let _ = frame::parameter(body);
        let _ = error_text(stream);
        let _ = error_field(stream, b'C');
        let _ = Shape::of_frame(stream);
    }
}

/// A client's first packet.
pub fn startup_packet(data: &[u8]) {
    if let Ok(startup::Startup::Session(hello)) = startup::decode(data) {
        assert!(!hello.user.is_empty() && !hello.database.is_empty());
    }
}

/// A client's two messages of a SCRAM exchange, with a byte of length in front of the first. Nobody proves
/// anything by them.
pub fn scram(data: &[u8]) {
    let Some((&length, rest)) = data.split_first() else {
        return;
    };
    let (first, last) = rest.split_at(usize::from(length).min(rest.len()));
    let verifier = Verifier::Scram {
        iterations: 4096,
        salt: vec![1; 16],
        stored_key: vec![2; 32],
        server_key: vec![3; 32],
    };
    for (verifier, mechanism) in [
        (Some(&verifier), SCRAM_SHA_256),
        (None, SCRAM_SHA_256),
        (None, SCRAM_SHA_256_PLUS),
    ] {
        if let Ok((exchange, challenge)) = ScramExchange::begin(verifier, None, mechanism, first) {
            assert!(challenge.starts_with("r="));
            assert!(exchange.finish(last).is_err());
        }
    }
    // The stored form, as a configuration has it.
    if let Ok(text) = std::str::from_utf8(rest) {
        let _ = Verifier::scram(&format!("SCRAM-SHA-256${text}"));
    }
}

/// What a client sends after its login.
pub fn batches(data: &[u8]) {
    gather_any(data);
}

/// A statement's text, under any lexical settings; twice, since the second time it is remembered.
pub fn texts(data: &[u8]) {
    let Some((&how, text)) = data.split_first() else {
        return;
    };
    let lexical = Lexical {
        standard_conforming_strings: how & 1 == 0,
        encoding: match how >> 1 & 7 {
            0 | 1 => Encoding::Utf8,
            2 => Encoding::AsciiSafe,
            3 => Encoding::ShiftJis,
            4 => Encoding::TwoBytes,
            _ => Encoding::Gb18030,
        },
    };
    let catalog = Catalog::empty();
    let mut classifier = Classifier::new(16);
    let first = classifier.classify(text, &catalog, lexical);
    let again = classifier.classify(text, &catalog, lexical);
    assert_eq!(first.access, again.access);
    assert_eq!(first.count, again.count);
    assert_eq!(first.effects, again.effects);
    classifier.refused_by_standby(text, lexical);
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = scan_any(text);
    }
}

/// The answer to the question what is left on a connection, as DataRow frames.
pub fn residue(data: &[u8]) {
    let (mut walker, mut at, mut rows) = (Walker::default(), 0, Vec::new());
    while let Ok(Some(frame::Piece::Frame { bytes, .. })) = walker.next(data, &mut at, |_| false) {
        rows.extend(frame::raw_row(&bytes[frame::HEADER..]));
    }
    let found = Residue::read(&rows);
    let names = found.settings.iter().map(|(name, _)| &**name);
    let question = Residue::question(names);
    assert!(question.starts_with("SELECT"));
    // However a name is written, it does not get out of its quotes.
    let mut classifier = Classifier::new(1);
    let statement = classifier.classify(question.as_bytes(), &Catalog::empty(), true);
    assert_eq!(statement.count, 1, "{question}");
    let _ = found.pins_after(Default::default()).to_string();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Target = fn(&[u8]);

    const TARGETS: [Target; 6] = [frames, startup_packet, scram, batches, texts, residue];

    /// One of each, near what is valid; proptest breaks them.
    fn corpus() -> Vec<Vec<u8>> {
        let framed = |tag: u8, body: &[u8]| {
            let mut out = Vec::new();
            frame::write(&mut out, tag, |to| to.extend_from_slice(body));
            out
        };
        vec![
            [&[3][..], &framed(b'D', b"\0\x02\0\0\0\x01a\xff\xff\xff\xff"), &framed(b'Z', b"I")].concat(),
            [&[1][..], &framed(b'E', b"SERROR\0C42P01\0Mno\0\0")].concat(),
            b"\0\x03\0\0user\0ann\0options\0-c work_mem=1MB\0\0".to_vec(),
            b"\x04\xd2\x16\x2e\0\0\0\x01abcd".to_vec(),
            b"\x18n,,n=,r=fyko+d2lbbFgONRvc=biws,r=fyko,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".to_vec(),
            [&[5][..], &framed(b'P', b"s\0SELECT $1\0\0\0"), &framed(b'B', b"\0s\0\0\0\0\x01\0\0\0\x01x\0\0"), &framed(b'D', b"Ss\0"), &framed(b'E', b"\0\0\0\0\0"), &framed(b'C', b"Ss\0"), &framed(b'S', b"")].concat(),
            [&[0][..], &framed(b'Q', b"SET search_path = a; SELECT 1\0"), &framed(b'd', b"x"), &framed(b'F', b"\0\0"), &framed(b'X', b"")].concat(),
            b"\0SELECT $tag$ it's $tag$, E'\\'', U&'x', /* /* */ */ \"a\"\"b\", 1e5 -- end".to_vec(),
            b"\x01DO $$ BEGIN PERFORM set_config('a.b', '1', false); END $$".to_vec(),
            framed(b'D', b"\0\x03\0\0\0\x06custom\0\0\0\x05a.'b\\\0\0\0\x01c"),
        ]
    }

    #[test]
    fn a_small_corpus_is_survived_by_every_target() {
        for entry in corpus() {
            for cut in 0..=entry.len() {
                TARGETS.iter().for_each(|target| target(&entry[..cut]));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn what_is_nearly_valid_is_survived(
            entry in prop::sample::select(corpus()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            tail in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut bytes = entry;
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(tail);
            TARGETS.iter().for_each(|target| target(&bytes));
        }
    }
}
