//! Whatever a client may send, gathered into batches and written for a server: for the fuzzer and its
//! tests. What does not hold panics.

use std::sync::Arc;

use super::render::{Rendered, render};
use crate::backend::prepared::{Reading, Registry};
use crate::backend::server::Conversation;
use crate::client::connection::batch::{Batch, End, Gathered};
use crate::client::connection::gatherer::Gatherer;
use crate::client::database::Database;
use crate::client::state::names::Names;
use crate::shared::catalogs::Catalogs;
use crate::shared::memory::{MemoryBudget, Share};
use crate::sql::Lexical;
use crate::wire::frame::{self, Piece, Walker};

/// A client whose bytes come in parts of at most this many.
struct Client {
    database: Database,
    names: Names,
    talk: Conversation,
    share: Share,
    lexical: Lexical,
    /// The tags of all messages that were taken.
    seen: Vec<u8>,
    streamed: bool,
}

/// Gathers a stream at once and in parts: its messages are the same.
pub(crate) fn gather_any(data: &[u8]) {
    let Some((&how, stream)) = data.split_first() else {
        return;
    };
    let mut at_once = Client::new(how & 1 == 0);
    at_once.take(stream, stream.len().max(1));
    let mut in_parts = Client::new(how & 1 == 0);
    in_parts.take(stream, usize::from(how >> 1) + 1);
    if !at_once.streamed && !in_parts.streamed {
        assert_eq!(at_once.seen, in_parts.seen);
    }
}

impl Client {
    fn new(standard_strings: bool) -> Self {
        let catalog = Catalogs::default().of("demo");
        let registry = Registry::new(7, 1, 1, 100);
        let memory = Arc::new(MemoryBudget::new(1 << 20, 1 << 19));
        Self {
            share: memory.share(),
            database: Database::new(
                "any".into(),
                catalog,
                Arc::default(),
                registry,
                memory,
                Arc::default(),
            ),
            names: Names::default(),
            talk: Conversation::default(),
            lexical: standard_strings.into(),
            seen: Vec::new(),
            streamed: false,
        }
    }

    fn take(&mut self, stream: &[u8], part: usize) {
        let (mut inbox, mut drop) = (Vec::new(), 0);
        let mut batch = Batch::default();
        for part in stream.chunks(part) {
            inbox.extend_from_slice(part);
            loop {
                let dropped = inbox.len().min(drop);
                inbox.drain(..dropped);
                drop -= dropped;
                let gatherer = Gatherer {
                    names: &mut self.names,
                    database: &self.database,
                    lexical: self.lexical,
                    reading: Reading::default(),
                    share: &mut self.share,
                };
                match batch.gather(&inbox, gatherer) {
                    Ok(Gathered::Incomplete) => break,
                    Ok(Gathered::Terminate) | Err(_) => {
                        let tags = batch.messages.iter().map(|message| message.tag);
                        return self.seen.extend(tags);
                    }
                    Ok(Gathered::Drop(bytes)) => drop += bytes,
                    Ok(Gathered::Batch) => {
                        if batch.refused.is_some() {
                            drop += batch.as_refused();
                            self.streamed = true;
                            self.names.failed();
                        } else {
                            self.send(&batch, &inbox);
                        }
                        inbox.drain(..batch.length);
                        self.share.set(0);
                        if let End::Large(missing) = batch.end {
                            drop += missing;
                            self.streamed = true;
                        }
                        batch.clear();
                    }
                }
            }
        }
        self.seen
            .extend(batch.messages.iter().map(|message| message.tag));
    }

    fn send(&mut self, batch: &Batch, inbox: &[u8]) {
        let mut at = 0;
        for message in &batch.messages {
            assert!(message.start == at && message.end > at);
            at = message.end;
            self.seen.push(message.tag);
        }
        assert!(at == batch.length && at <= inbox.len());
        let rendered = render(batch, inbox, &mut self.talk, 3, false);
        if let Rendered::Rewritten(bytes) = rendered {
            let mut missing = match batch.end {
                End::Large(missing) => missing,
                _ => 0,
            };
            let (mut walker, mut at) = (Walker::default(), 0);
            loop {
                match walker.next(&bytes, &mut at, |_| true) {
                    Ok(Some(Piece::Frame { .. } | Piece::Start { .. } | Piece::More(_))) => {}
                    Ok(None) => break,
                    Err(_) => panic!("a frame of our own has an impossible length"),
                }
            }
            assert_eq!(at, bytes.len(), "a frame of our own is cut");
            while missing > 0 {
                let rest = vec![0; missing.min(frame::WHOLE)];
                let mut at = 0;
                let piece = walker.next(&rest, &mut at, |_| true);
                assert!(matches!(piece, Ok(Some(Piece::More(more))) if more.len() == rest.len()));
                missing -= rest.len();
            }
            assert!(!walker.is_inside(), "more is announced than comes");
        }
        self.names.confirm_all();
        self.talk.exchange = Default::default();
    }
}
