//! One of the two sides that a script is run on: its sessions, and what it knows from outside.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use pgcauseway::rig::Login;

use crate::script::{Act, CopyIn, Message};
use crate::statements::RESET;
use crate::wire::{CLOSED, Frame, LATE, Note, Wire, message};

/// A way to one database.
pub struct Side {
    /// Where its sessions connect.
    pub port: u16,
    pub login: Login,
    /// The superuser's own connection to that database's primary.
    pub admin: Wire,
    sessions: HashMap<usize, Session>,
    /// Who had which process id, in this script.
    pids: HashMap<i32, usize>,
    pub patience: Duration,
}

/// The application's server connections to this database.
const OTHERS: &str = "FROM pg_stat_activity WHERE datname = current_database() \
                      AND backend_type = 'client backend' AND usename = 'fuzz'";

struct Session {
    wire: Wire,
    owed: VecDeque<Owed>,
    /// After an error in a pipeline, until Sync.
    skips: bool,
    /// Whether a pipeline has begun that no Sync has ended.
    unsynchronised: bool,
    status: u8,
    notes: Vec<Note>,
}

/// What an answer is awaited to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owed {
    Query,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
}

impl Side {
    pub fn new(port: u16, login: Login, admin: Wire) -> Self {
        Self {
            port,
            login,
            admin,
            sessions: HashMap::new(),
            pids: HashMap::new(),
            patience: Duration::from_secs(4),
        }
    }

    /// Brings the database back to the start of a script, without sessions.
    pub fn reset(&mut self) {
        self.leave();
        self.admin.rows(RESET);
    }

    /// Ends every session.
    fn leave(&mut self) {
        self.sessions.clear();
        self.pids.clear();
    }

    /// Ends every session, and waits until the server has no connection of the application's.
    pub fn leave_server(&mut self) {
        self.leave();
        let count = format!("SELECT count(*) {OTHERS}");
        until(|| self.admin.rows(&count)[0][0].as_deref() == Some("0"));
    }

    /// The same, whoever keeps them open.
    pub fn purge(&mut self) {
        self.leave();
        let terminate = format!("SELECT pg_terminate_backend(pid) {OTHERS}");
        self.admin.rows(&terminate);
        self.leave_server();
    }

    /// Whether a session cannot do with another server connection at this moment.
    pub fn busy(&self, session: usize) -> bool {
        self.sessions.get(&session).is_some_and(|session| {
            session.status != b'I' || session.unsynchronised || !session.owed.is_empty()
        })
    }

    /// Takes a step, and gives its answer without notifications.
    pub fn act(&mut self, number: usize, act: &Act) -> Vec<Frame> {
        match act {
            Act::Connect(options) => match Wire::login(self.port, &self.login, options) {
                Err(frame) => vec![frame],
                Ok(mut wire) => {
                    self.pids.insert(wire.pid, number);
                    let greeting = std::mem::take(&mut wire.greeting);
                    self.sessions.insert(number, Session::new(wire));
                    greeting
                }
            },
            Act::Leave { politely } => {
                if let Some(session) = self.sessions.remove(&number)
                    && *politely
                {
                    session.wire.terminate();
                }
                Vec::new()
            }
            Act::Simple { copy, .. } | Act::Extended { copy, .. } => {
                let Some(session) = self.sessions.get_mut(&number) else {
                    return vec![Frame::mark(CLOSED)];
                };
                let frames = session.exchange(act, copy, self.patience);
                let lost = |frame: &Frame| matches!(frame.tag, CLOSED | LATE);
                if frames.last().is_some_and(lost) {
                    self.sessions.remove(&number);
                }
                frames
            }
        }
    }

    pub fn pid(&self, session: usize) -> Option<i32> {
        Some(self.sessions.get(&session)?.wire.pid)
    }

    /// Waits until the server has no process of this number any more.
    pub fn await_gone(&mut self, pid: i32) {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        until(|| self.admin.rows(&sql)[0][0].as_deref() == Some("0"));
    }

    /// The notifications of an idle session so far, as from session to channel with payload. An
    /// empty query has the server deliver what there is; or so many are awaited.
    pub fn notes(&mut self, number: usize, awaited: Option<usize>) -> Vec<String> {
        if self.busy(number) {
            return Vec::new();
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return Vec::new();
        };
        match awaited {
            None => {
                let act = Act::Simple {
                    statements: Vec::new(),
                    copy: CopyIn::default(),
                };
                session.exchange(&act, &CopyIn::default(), self.patience);
            }
            Some(count) => while session.notes.len() < count && session.note(self.patience) {},
        }
        let sender = |pid| match self.pids.get(pid) {
            Some(number) => format!("s{number}"),
            None => "nobody".to_owned(),
        };
        let notes = session.notes.iter();
        let shown = notes
            .map(|(pid, channel, payload)| format!("{} on {channel}: {payload:?}", sender(pid)));
        shown.collect()
    }

    /// Locks that outlive a statement, whoever has them.
    pub fn locks(&mut self) -> Vec<String> {
        let rows = self.admin.rows(
            "SELECT l.locktype, c.relname, l.classid, l.objid, l.objsubid, l.mode \
             FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation \
             WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND (l.locktype = 'advisory' OR c.relkind = 'r' AND c.oid >= 16384 \
                    AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')) \
             ORDER BY 1, 2, 3, 4, 5, 6",
        );
        let text = |row: Vec<Option<String>>| {
            let columns = row.into_iter().flatten();
            columns.collect::<Vec<_>>().join(" ")
        };
        rows.into_iter().map(text).collect()
    }
}

impl Session {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            owed: VecDeque::new(),
            skips: false,
            unsynchronised: false,
            status: b'I',
            notes: Vec::new(),
        }
    }

    fn exchange(&mut self, act: &Act, copy: &CopyIn, patience: Duration) -> Vec<Frame> {
        self.wire.send(&act.bytes());
        // An answer is certain to have been sent only up to here.
        let mut flushed = 0;
        match act {
            Act::Extended { messages, .. } => {
                for message in messages {
                    if let Some(owed) = owed(message) {
                        self.owed.push_back(owed);
                    }
                    if matches!(message, Message::Sync | Message::Flush) {
                        flushed = self.owed.len();
                    }
                    self.unsynchronised = *message != Message::Sync;
                }
            }
            _ => {
                self.owed.push_back(Owed::Query);
                flushed = self.owed.len();
            }
        }
        let mut answer = Vec::new();
        for _ in 0..flushed {
            let Some(owed) = self.owed.pop_front() else {
                break;
            };
            if self.skips && owed != Owed::Sync {
                continue;
            }
            if !self.read(owed, copy, patience, &mut answer) {
                break;
            }
        }
        answer
    }

    /// Reads the answer to one message; false if there will be no more.
    fn read(
        &mut self,
        owed: Owed,
        copy: &CopyIn,
        patience: Duration,
        answer: &mut Vec<Frame>,
    ) -> bool {
        if owed == Owed::Sync {
            self.skips = false;
        }
        loop {
            let frame = self.wire.frame(patience);
            let tag = frame.tag;
            if tag == b'A' {
                self.keep(&frame);
                continue;
            }
            let fatal = tag == b'E'
                && frame
                    .field(b'V')
                    .is_some_and(|severity| severity == "FATAL");
            if tag == b'Z' {
                self.status = frame.body.first().copied().unwrap_or_default();
            }
            answer.push(frame);
            let done = match tag {
                CLOSED | LATE => return false,
                // The end follows.
                b'E' if fatal => false,
                b'E' if !matches!(owed, Owed::Query | Owed::Sync) => {
                    self.skips = true;
                    true
                }
                b'G' => {
                    self.wire.send(&copy.bytes());
                    if owed != Owed::Query {
                        self.wire.send(&message(b'H', &[]));
                    }
                    false
                }
                // Not only where it is due: nothing more would come.
                b'Z' => {
                    if owed == Owed::Query {
                        self.unsynchronised = false;
                    }
                    true
                }
                b'1' => owed == Owed::Parse,
                b'2' => owed == Owed::Bind,
                b'3' => owed == Owed::Close,
                b'T' | b'n' => owed == Owed::Describe,
                b'C' | b's' | b'I' => owed == Owed::Execute,
                _ => false,
            };
            if done {
                return true;
            }
        }
    }

    /// Reads one more notification; false if there is none in time.
    fn note(&mut self, patience: Duration) -> bool {
        let frame = self.wire.frame(patience);
        let came = frame.tag == b'A';
        if came {
            self.keep(&frame);
        }
        came
    }

    fn keep(&mut self, frame: &Frame) {
        let Some((pid, rest)) = frame.body.split_first_chunk::<4>() else {
            return;
        };
        let rest = Frame {
            tag: frame.tag,
            body: rest.to_vec(),
        };
        let mut texts = rest.strings().into_iter();
        let mut next = || texts.next().unwrap_or_default();
        self.notes.push((i32::from_be_bytes(*pid), next(), next()));
    }
}

fn owed(message: &Message) -> Option<Owed> {
    Some(match message {
        Message::Parse { .. } => Owed::Parse,
        Message::Bind { .. } => Owed::Bind,
        Message::Describe { .. } => Owed::Describe,
        Message::Execute { .. } => Owed::Execute,
        Message::Close { .. } => Owed::Close,
        Message::Sync => Owed::Sync,
        Message::Flush => return None,
    })
}

/// Looks until a condition holds.
pub fn until(mut condition: impl FnMut() -> bool) {
    assert!(
        holds_within(Duration::from_secs(20), &mut condition),
        "waited in vain"
    );
}

/// Whether a condition holds within this time.
pub fn holds_within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
