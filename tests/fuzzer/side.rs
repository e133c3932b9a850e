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
    /// Connections that DISCARD ALL has made as good as new, by their startup parameters; none unless
    /// they are kept. To start a server process costs more than all that a session has it do.
    spares: Option<HashMap<Options, Vec<Session>>>,
    pub patience: Duration,
}

type Options = Vec<(String, String)>;

struct Session {
    wire: Wire,
    options: Options,
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
            spares: None,
            patience: Duration::from_secs(20),
        }
    }

    /// Keeps connections for sessions to come. It must lead to the server itself.
    pub fn keeping(self) -> Self {
        Self {
            spares: Some(HashMap::new()),
            ..self
        }
    }

    /// Brings the database back to the start of a script, without sessions.
    pub fn reset(&mut self) {
        let here: Vec<usize> = self.sessions.keys().copied().collect();
        for number in here {
            self.leave(number, false);
        }
        self.pids.clear();
        self.admin.rows(RESET);
    }

    /// Ends every session and closes all of the application's server connections to this database.
    pub fn purge(&mut self) {
        self.sessions.clear();
        let others = "FROM pg_stat_activity WHERE datname = current_database() \
                      AND backend_type = 'client backend' AND usename = 'fuzz'";
        self.admin
            .rows(&format!("SELECT pg_terminate_backend(pid) {others}"));
        let count = format!("SELECT count(*) {others}");
        until(|| self.admin.rows(&count)[0][0].as_deref() == Some("0"));
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
            Act::Connect(options) => self.connect(number, options),
            Act::Leave { politely } => {
                self.leave(number, *politely);
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

    /// Whether a session has sent what need not have been looked at yet.
    pub fn owes(&self) -> bool {
        self.sessions
            .values()
            .any(|session| !session.owed.is_empty())
    }

    pub fn has(&self, session: usize) -> bool {
        self.sessions.contains_key(&session)
    }

    fn connect(&mut self, number: usize, options: &Options) -> Vec<Frame> {
        self.leave(number, false);
        let spares = self.spares.as_mut().and_then(|all| all.get_mut(options));
        let session = match spares.and_then(Vec::pop) {
            Some(spare) => spare,
            None => match Wire::login(self.port, &self.login, options) {
                Ok(wire) => Session::new(wire, options.clone()),
                Err(frame) => return vec![frame],
            },
        };
        self.pids.insert(session.wire.pid, number);
        let greeting = session.wire.greeting.clone();
        self.sessions.insert(number, session);
        greeting
    }

    /// Ends a session; at the server itself it is gone for certain afterwards.
    fn leave(&mut self, number: usize, politely: bool) {
        let Some(mut session) = self.sessions.remove(&number) else {
            return;
        };
        let Some(spares) = &mut self.spares else {
            if politely {
                session.wire.terminate();
            }
            return;
        };
        if session.renew(self.patience) {
            let options = session.options.clone();
            spares.entry(options).or_default().push(session);
            return;
        }
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {}",
            session.wire.pid
        );
        drop(session);
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
            Some(known) if *known == number => "itself".to_owned(),
            // Elsewhere it bears the process id of whichever server connection was used.
            Some(known) if awaited.is_none() => format!("session {known}"),
            _ => "another".to_owned(),
        };
        let notes = session.notes.iter();
        let shown = notes
            .map(|(pid, channel, payload)| format!("{} on {channel}: {payload:?}", sender(pid)));
        shown.collect()
    }

    /// Locks that outlive a statement, whoever has them; but for those of reads and writes, which a
    /// statement takes already as it is parsed: a standby may have them instead, and a statement that is
    /// prepared anew takes them again; and for those of serializable transactions, which last as long as
    /// others like them.
    pub fn locks(&mut self) -> Vec<String> {
        let rows = self.admin.rows(
            "SELECT l.locktype, c.relname, l.classid, l.objid, l.objsubid, l.mode \
             FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation \
             WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND (l.locktype = 'advisory' OR c.relkind = 'r' AND c.oid >= 16384 \
                    AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock', \
                                       'SIReadLock')) \
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
    fn new(wire: Wire, options: Options) -> Self {
        Self {
            wire,
            options,
            owed: VecDeque::new(),
            skips: false,
            unsynchronised: false,
            status: b'I',
            notes: Vec::new(),
        }
    }

    /// Makes the session as good as new, if that can be.
    fn renew(&mut self, patience: Duration) -> bool {
        // A Sync would commit what the session leaves unfinished, and DISCARD ALL forgets that a role
        // was asked for at the start.
        let role = |(_, value): &(String, String)| value.contains("role=");
        if self.unsynchronised || self.options.iter().any(role) {
            return false;
        }
        let copy = CopyIn::default();
        let simple = |text: &str| Act::Simple {
            statements: vec![text.to_owned()],
            copy: copy.clone(),
        };
        let acts = [simple("ROLLBACK"), simple("DISCARD ALL")];
        let [_, last] = acts.map(|act| self.exchange(&act, &copy, patience));
        self.notes.clear();
        let renewed = |frame: &Frame| frame.tag == b'C' && frame.body == b"DISCARD ALL\0";
        self.status == b'I' && last.iter().any(renewed)
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
