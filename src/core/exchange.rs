//! What a server connection still owes: which replies are the client's, which are our own, and
//! when the connection may be given back.
//!
//! Every message sent to the server is entered here in order; every frame that comes back is held
//! against the head of the queue (PostgreSQL manual, "Message Flow").

use std::collections::VecDeque;
use std::sync::Arc;

use super::mutant::{Rule, holds};
use super::statement::Step;
use super::tag::backend;

/// Transaction status as ReadyForQuery reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: idle.
    #[default]
    Idle,
    /// `T`: in a transaction.
    InTransaction,
    /// `E`: in a failed transaction.
    Failed,
}

impl TransactionStatus {
    /// Decodes ReadyForQuery's byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What the statements that a message runs do to the session; none for nearly all of them.
pub type Effects = Option<Arc<[Step]>>;

/// A statement with effects has come to its end, or was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The effects of all statements of its text.
    pub effects: Arc<[Step]>,
    /// Its number in the text.
    pub statement: u32,
    /// It completed. Otherwise it failed, or paused at a row limit: only what no ROLLBACK takes back
    /// may have happened.
    pub completed: bool,
}

/// One message sent to the server, by what it will answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// Query or FunctionCall: anything, up to ReadyForQuery.
    Query(Effects),
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe: RowDescription or NoData.
    Describe,
    /// Describe of a named statement, whose answer is remembered.
    DescribeNamed,
    /// Execute: rows, then one of the completions.
    Execute(Effects),
    /// Close: CloseComplete.
    Close,
    /// Sync: ReadyForQuery.
    Sync,
    /// A Query of our own: the client sees nothing of it.
    OwnQuery,
    /// A Parse of our own: the client sees nothing but its error.
    OwnParse,
    /// A Close of our own.
    OwnClose,
    /// A Sync of our own, behind messages that run nothing.
    OwnSync,
    /// Nothing was sent: the client is answered ParseComplete in its turn.
    FakeParse,
    /// Nothing was sent: the client is answered CloseComplete in its turn.
    FakeClose,
}

/// What to do with a frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the client's.
    Forward,
    /// It answers a message of our own.
    Swallow,
    /// It cannot come here: the connection is out of step and must be closed.
    OutOfStep,
}

/// Whether rows flow the other way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copy {
    /// No COPY FROM STDIN is under way.
    #[default]
    No,
    /// The server reads CopyData. Under the extended protocol it ignores Sync until CopyDone.
    In {
        /// Started by Execute.
        extended: bool,
    },
}

/// The state of one conversation with a server.
#[derive(Debug, Default)]
pub struct Exchange {
    owed: VecDeque<Owed>,
    status: TransactionStatus,
    copy: Copy,
    unsynced: bool,
    /// After an error the server skips whatever comes up to a Sync that has not been sent yet.
    skips: bool,
    /// The client has ended its COPY data and the answer to it is still owed.
    copied: bool,
    /// A Close of our own was skipped: the server holds a statement that is thought to be gone. Or
    /// the server is gone itself.
    leftover: bool,
    /// Statements of the Query at the head of the queue that have completed.
    statement: u32,
    finished: Option<Finished>,
}

impl Exchange {
    /// A message was sent, or is to be answered in its turn.
    pub fn sent(&mut self, message: Owed) {
        match message {
            Owed::Sync | Owed::OwnSync | Owed::Query(_) | Owed::OwnQuery => {
                self.unsynced = false;
                self.copied = false;
                self.skips = false;
            }
            Owed::FakeParse | Owed::FakeClose => {}
            _ => self.unsynced = true,
        }
        self.owed.push_back(message);
    }

    /// True when every reply has arrived, no extended batch awaits its Sync and no transaction is
    /// open: the server connection may serve somebody else.
    pub fn is_free(&self) -> bool {
        self.is_quiet() && self.status == TransactionStatus::Idle
    }

    /// The server has said goodbye: nobody may have this connection next.
    pub fn gone(&mut self) {
        self.leftover = true;
    }

    /// Whether the server holds a prepared statement that nobody will close, or has said goodbye.
    pub fn has_leftover(&self) -> bool {
        self.leftover
    }

    /// True when every reply has arrived and no extended batch awaits its Sync.
    pub fn is_quiet(&self) -> bool {
        let synced = !self.unsynced && !self.skips || !holds(Rule::SyncEndsAPipeline);
        self.owed.is_empty() && synced && self.copy == Copy::No
    }

    /// What is still to come, in order.
    pub fn owed(&self) -> impl Iterator<Item = Owed> {
        self.owed.iter().cloned()
    }

    /// True when every reply has arrived, though an extended batch may await its Sync.
    pub fn owes_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    /// True when a pipeline awaits its Sync, every reply so far has arrived, and the server would take more.
    pub fn awaits_more(&self) -> bool {
        self.owed.is_empty() && self.unsynced && !self.skips && self.copy == Copy::No
    }

    /// True when the server has all the COPY data of an extended batch and answers upon Sync only.
    pub fn awaits_sync_after_copy(&self) -> bool {
        self.unsynced && self.copy == Copy::No && self.copied
    }

    /// Whether an error has made the server deaf to everything but a Sync.
    pub fn skips_to_sync(&self) -> bool {
        self.skips
    }

    /// Transaction status as of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether the server is reading COPY data.
    pub fn copy(&self) -> Copy {
        self.copy
    }

    /// A Flush was sent: what the server has to say comes without a Sync.
    pub fn flushed(&mut self) {
        self.copied = false;
    }

    /// The client ended its COPY data, one way or the other.
    pub fn copy_ended(&mut self) {
        self.copied = self.copy == Copy::In { extended: true };
        self.copy = Copy::No;
    }

    /// The statement with effects that the last frame has ended; reading clears it.
    pub fn take_finished(&mut self) -> Option<Finished> {
        self.finished.take()
    }

    /// Whether a named statement's description is what comes next.
    pub fn describes_named(&self) -> bool {
        self.owed.front() == Some(&Owed::DescribeNamed)
    }

    /// Whether the answer to a client's Parse is what comes next.
    pub fn parses(&self) -> bool {
        self.owed.front() == Some(&Owed::Parse)
    }

    /// Whether the next reply is one to be synthesised.
    pub fn has_fake(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::FakeParse | Owed::FakeClose))
    }

    /// The synthesised reply whose turn has come, if any.
    pub fn next_fake(&mut self) -> Option<Owed> {
        match self.owed.front() {
            Some(Owed::FakeParse | Owed::FakeClose) => self.owed.pop_front(),
            _ => None,
        }
    }

    /// Holds a frame from the server against the queue.
    ///
    /// `status` is the body's first byte, which only ReadyForQuery needs.
    pub fn received(&mut self, tag: u8, status: u8) -> Fate {
        let Some(head) = self.owed.front() else {
            // Only what a server may say at any time; an unsolicited error is its farewell.
            return if matches!(
                tag,
                backend::NOTICE
                    | backend::PARAMETER_STATUS
                    | backend::NOTIFICATION
                    | backend::ERROR
            ) {
                Fate::Forward
            } else {
                Fate::OutOfStep
            };
        };
        let own = matches!(
            head,
            Owed::OwnQuery | Owed::OwnParse | Owed::OwnClose | Owed::OwnSync
        );
        let fate = if own { Fate::Swallow } else { Fate::Forward };
        match tag {
            backend::NOTICE | backend::NOTIFICATION => return Fate::Forward,
            backend::PARAMETER_STATUS => {}
            backend::DATA_ROW | backend::COPY_DATA | backend::COPY_DONE => {}
            backend::ROW_DESCRIPTION | backend::NO_DATA
                if matches!(head, Owed::Describe | Owed::DescribeNamed) =>
            {
                self.pop()
            }
            backend::ROW_DESCRIPTION | backend::PARAMETER_DESCRIPTION => {}
            backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY
            | backend::PORTAL_SUSPENDED
            | backend::FUNCTION_RESULT => match head {
                Owed::Execute(effects) => {
                    let has_effects = effects.is_some();
                    if has_effects {
                        self.finish(tag != backend::PORTAL_SUSPENDED);
                    }
                    self.pop();
                }
                Owed::Query(effects) => {
                    let has_effects = effects.is_some();
                    if has_effects {
                        self.finish(true);
                    }
                    self.statement += 1;
                }
                Owed::OwnQuery => {}
                _ => return Fate::OutOfStep,
            },
            backend::PARSE_COMPLETE if matches!(head, Owed::Parse | Owed::OwnParse) => self.pop(),
            backend::BIND_COMPLETE if matches!(head, Owed::Bind) => self.pop(),
            backend::CLOSE_COMPLETE if matches!(head, Owed::Close | Owed::OwnClose) => self.pop(),
            backend::COPY_IN => self.copy_in_began(),
            backend::COPY_OUT => {}
            backend::ERROR => return self.error(),
            backend::READY => {
                let Some(status) = TransactionStatus::from_byte(status) else {
                    return Fate::OutOfStep;
                };
                if !matches!(
                    head,
                    Owed::Query(_) | Owed::Sync | Owed::OwnQuery | Owed::OwnSync
                ) {
                    return Fate::OutOfStep;
                }
                self.status = status;
                self.statement = 0;
                self.copy = Copy::No;
                self.pop();
            }
            _ => return Fate::OutOfStep,
        }
        fate
    }

    fn pop(&mut self) {
        self.owed.pop_front();
    }

    /// The server now ignores a Sync that is already on its way: another must follow the data.
    fn copy_in_began(&mut self) {
        let extended = matches!(self.owed.front(), Some(Owed::Execute(_)));
        self.copy = Copy::In { extended };
        if extended {
            self.owed.retain(|owed| *owed != Owed::Sync);
            self.unsynced = true;
        }
    }

    /// The statement at the head of the queue has ended, one way or the other.
    fn finish(&mut self, completed: bool) {
        if let Some(Owed::Query(Some(effects)) | Owed::Execute(Some(effects))) = self.owed.front() {
            self.finished = Some(Finished {
                effects: Arc::clone(effects),
                statement: self.statement,
                completed,
            });
        }
    }

    fn error(&mut self) -> Fate {
        self.copy = Copy::No;
        self.finish(false);
        match self.owed.front() {
            Some(Owed::Query(_)) => Fate::Forward,
            Some(Owed::OwnQuery) => Fate::Swallow,
            _ => {
                // The server skips everything up to the next Sync.
                let mut first = true;
                while let Some(owed) = self.owed.front()
                    && !matches!(owed, Owed::Sync | Owed::OwnSync)
                {
                    self.leftover |= matches!(owed, Owed::OwnClose) && !first;
                    first = false;
                    self.pop();
                }
                self.skips = self.owed.is_empty();
                Fate::Forward
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(sent: &[Owed]) -> Exchange {
        let mut exchange = Exchange::default();
        sent.iter()
            .for_each(|message| exchange.sent(message.clone()));
        exchange
    }

    fn receive(exchange: &mut Exchange, tags: &[u8]) -> Vec<Fate> {
        tags.iter()
            .map(|tag| exchange.received(*tag, b'I'))
            .collect()
    }

    #[test]
    fn a_simple_query_is_owed_until_ready() {
        let mut exchange = exchange(&[Owed::Query(None)]);
        assert_eq!(receive(&mut exchange, b"TDDC"), [Fate::Forward; 4]);
        assert!(!exchange.is_quiet());
        assert_eq!(exchange.received(b'Z', b'T'), Fate::Forward);
        assert!(
            exchange.is_quiet() && !exchange.is_free(),
            "a transaction is open"
        );
    }

    #[test]
    fn our_own_messages_stay_unseen_and_fakes_come_in_their_turn() {
        let mut exchange = exchange(&[
            Owed::OwnQuery,
            Owed::FakeParse,
            Owed::OwnParse,
            Owed::Bind,
            Owed::Execute(None),
            Owed::FakeClose,
            Owed::Sync,
        ]);
        assert_eq!(exchange.next_fake(), None);
        assert_eq!(receive(&mut exchange, b"CSZ"), [Fate::Swallow; 3]);
        assert_eq!(exchange.next_fake(), Some(Owed::FakeParse));
        assert_eq!(receive(&mut exchange, b"1"), [Fate::Swallow]);
        assert_eq!(receive(&mut exchange, b"2DC"), [Fate::Forward; 3]);
        assert_eq!(exchange.next_fake(), Some(Owed::FakeClose));
        assert_eq!(receive(&mut exchange, b"Z"), [Fate::Forward]);
        assert!(exchange.is_free());
    }

    #[test]
    fn an_error_skips_to_sync_and_takes_the_fakes_with_it() {
        let mut exchange = exchange(&[
            Owed::Parse,
            Owed::Bind,
            Owed::Execute(None),
            Owed::FakeParse,
            Owed::Bind,
            Owed::Sync,
            Owed::Parse,
            Owed::Sync,
        ]);
        assert_eq!(receive(&mut exchange, b"12E"), [Fate::Forward; 3]);
        assert_eq!(exchange.next_fake(), None);
        assert_eq!(receive(&mut exchange, b"Z1Z"), [Fate::Forward; 3]);
        assert!(exchange.is_free());
    }

    #[test]
    fn copy_in_under_the_extended_protocol_wants_a_second_sync() {
        let mut exchange = exchange(&[Owed::Bind, Owed::Execute(None), Owed::Sync]);
        receive(&mut exchange, b"2G");
        assert_eq!(exchange.copy(), Copy::In { extended: true });
        exchange.copy_ended();
        assert!(!exchange.is_quiet());
        exchange.sent(Owed::Sync);
        assert_eq!(receive(&mut exchange, b"CZ"), [Fate::Forward; 2]);
        assert!(exchange.is_free());
    }

    #[test]
    fn a_batch_without_sync_keeps_the_connection() {
        let mut exchange = exchange(&[Owed::Parse]);
        receive(&mut exchange, b"1");
        assert!(exchange.owes_nothing() && !exchange.is_quiet());
    }

    #[test]
    fn an_error_without_a_sync_behind_it_makes_the_server_skip() {
        let mut exchange = exchange(&[Owed::Parse, Owed::Bind]);
        receive(&mut exchange, b"1E");
        assert!(exchange.skips_to_sync() && exchange.owes_nothing());
        exchange.sent(Owed::Sync);
        assert!(!exchange.skips_to_sync());
        receive(&mut exchange, b"Z");
        assert!(exchange.is_free());
        // A simple query behind the error is skipped as well, and ends nothing.
        exchange.sent(Owed::Parse);
        exchange.sent(Owed::Query(None));
        receive(&mut exchange, b"E");
        assert!(exchange.skips_to_sync() && !exchange.is_free());
    }

    #[test]
    fn what_cannot_come_is_noticed() {
        assert_eq!(receive(&mut exchange(&[]), b"Z"), [Fate::OutOfStep]);
        assert_eq!(
            receive(&mut exchange(&[Owed::Bind]), b"1"),
            [Fate::OutOfStep]
        );
        assert_eq!(
            receive(&mut exchange(&[Owed::Bind]), b"Z"),
            [Fate::OutOfStep]
        );
        assert_eq!(
            receive(&mut exchange(&[Owed::Query(None)]), b"\0"),
            [Fate::OutOfStep]
        );
        assert_eq!(
            exchange(&[Owed::Query(None)]).received(b'Z', b'x'),
            Fate::OutOfStep
        );
        assert_eq!(receive(&mut exchange(&[]), b"NSAE"), [Fate::Forward; 4]);
    }
}
