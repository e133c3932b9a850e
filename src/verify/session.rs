//! One session: sends what the script says, shows every answer to the checker, and comes back after
//! a lost connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::checker::{Cell, Checker, Context, Finding};
use super::connection::{Answer, Connection, Question, StatementError, Texts};
use super::options::{Endpoint, Options};
use super::runs::Runs;
use super::schema::{self, NONCE_ROW};
use super::script::{Action, Script, SessionKind, Transaction};
use super::tally::{Operation, Tally, Timed, Violation};

/// Reads in a row that must show the schema: behind one connection there can be several replicas.
const SIGHTINGS: usize = 8;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// What all sessions of a check share.
pub(super) struct RunShared {
    texts: Texts,
    stop: watch::Sender<bool>,
    reads: AtomicU64,
    reads_wanted: Option<u64>,
    /// Greatest value acknowledged to anyone, by cell; the own rows' entry is unused.
    published: [AtomicI64; Cell::COUNT],
}

impl RunShared {
    pub(super) fn new(texts: Texts, reads_wanted: Option<u64>) -> Self {
        Self {
            texts,
            stop: watch::Sender::new(false),
            reads: AtomicU64::new(0),
            reads_wanted,
            published: Default::default(),
        }
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) async fn stopped(&self) {
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn count_read(&self) {
        let count = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        if self.reads_wanted.is_some_and(|wanted| count >= wanted) {
            self.stop();
        }
    }
}

/// What a session leaves.
pub(super) struct SessionEnd {
    pub(super) tally: Tally,
    /// Its row, and the values acknowledged there.
    pub(super) acknowledged: (i32, Runs),
}

/// A session with its connections: one to the target, one to each read target.
pub(super) struct Session {
    number: usize,
    name: String,
    options: Arc<Options>,
    shared: Arc<RunShared>,
    script: Script,
    checker: Checker,
    tally: Tally,
    started: Instant,
    links: Vec<Option<Connection>>,
    next_reader: usize,
    /// Who served the read before, and whether it was in recovery.
    previous: Option<(String, bool)>,
}

impl Session {
    /// Connects, and waits until every connection shows this run's table.
    pub(super) async fn open(
        number: usize,
        role: SessionKind,
        options: Arc<Options>,
        shared: Arc<RunShared>,
        nonce: i64,
    ) -> Result<Self, StatementError> {
        let name = match role {
            SessionKind::Writer { .. } => format!("writer {number}"),
            SessionKind::Reader => format!("reader {}", number - options.writers),
            SessionKind::Mixed => format!("mixed {}", number - options.writers - options.readers),
        };
        let script = Script::new(
            role,
            &options.forms,
            options.blocks,
            options.reads_per_write,
            options.seed.wrapping_add(number as u64),
        );
        let mut session = Self {
            number,
            name,
            script,
            checker: Checker::default(),
            tally: Tally::default(),
            started: Instant::now(),
            links: Vec::new(),
            next_reader: number,
            previous: None,
            options,
            shared,
        };
        for place in 0..=session.options.read_targets.len() {
            let mut link = session.connect(place).await?;
            session.await_table(&mut link, nonce).await?;
            session.links.push(Some(link));
        }
        Ok(session)
    }

    /// Runs the script until the check is stopped.
    pub(super) async fn run(mut self, started: Instant) -> SessionEnd {
        self.started = started;
        while !self.shared.is_stopped() {
            for transaction in self.script.next_cycle() {
                if self.shared.is_stopped() {
                    break;
                }
                if let Err((operation, failure)) = self.transaction(&transaction).await {
                    self.tally.error(operation, &failure);
                    // The rest of a cycle assumes that what came before has happened.
                    break;
                }
            }
            if !self.options.think_time.is_zero() {
                self.pause(self.options.think_time).await;
            }
        }
        for link in self.links.drain(..).flatten() {
            link.close().await;
        }
        SessionEnd {
            acknowledged: (
                schema::row(Cell::Own, self.number),
                self.checker.acknowledged_own().clone(),
            ),
            tally: self.tally,
        }
    }

    async fn transaction(&mut self, what: &Transaction) -> Result<(), (Operation, StatementError)> {
        let writes = what.writes();
        let operation = if writes {
            Operation::Write
        } else {
            Operation::Read
        };
        let place = self.place(writes);
        let Some(mut link) = self.take_link(place).await else {
            return Ok(());
        };
        let began = Instant::now();
        let mut pending = [None; Cell::COUNT];
        let result = self.statements(&mut link, what, &mut pending).await;
        match result {
            Ok(()) => {
                self.commit(pending);
                if writes {
                    self.tally.latency(Timed::Write, began.elapsed());
                }
                self.links[place] = Some(link);
                Ok(())
            }
            Err(failure) => {
                if writes && failure.leaves_outcome_unknown() {
                    self.tally.unknown_outcomes += 1;
                }
                let usable =
                    !failure.lost && (!what.block || link.run("ROLLBACK", what.form).await.is_ok());
                if usable {
                    self.links[place] = Some(link);
                }
                Err((operation, failure))
            }
        }
    }

    async fn statements(
        &mut self,
        link: &mut Connection,
        what: &Transaction,
        pending: &mut [Option<i64>; Cell::COUNT],
    ) -> Result<(), StatementError> {
        if what.block {
            link.run("BEGIN", what.form).await?;
        }
        for action in &what.actions {
            match *action {
                Action::Read(cell) => self.read(link, what, cell, pending[cell.index()]).await?,
                Action::WriteOwn => {
                    let value = self.checker.attempt();
                    self.write(link, what, Cell::Own, Some(value)).await?;
                    pending[Cell::Own.index()] = Some(value);
                }
                Action::Increase(cell) => {
                    let value = self.write(link, what, cell, None).await?;
                    pending[cell.index()] = Some(value);
                }
            }
        }
        if what.block {
            link.run("COMMIT", what.form).await?;
        }
        Ok(())
    }

    async fn read(
        &mut self,
        link: &mut Connection,
        what: &Transaction,
        cell: Cell,
        pending: Option<i64>,
    ) -> Result<(), StatementError> {
        let row = schema::row(cell, self.number);
        let published = (self.options.recency && cell != Cell::Own)
            .then(|| self.shared.published[cell.index()].load(Ordering::SeqCst));
        let asked = Instant::now();
        let answer = link
            .ask(&self.shared.texts, Question::Read { row }, what.form)
            .await?;
        let timed = if answer.replica {
            Timed::ReplicaRead
        } else {
            Timed::PrimaryRead
        };
        self.tally.latency(timed, asked.elapsed());
        self.shared.count_read();
        let findings = if answer.row == row {
            let context = Context { pending, published };
            self.checker.read(cell, answer.value, context)
        } else {
            vec![foreign(row)]
        };
        self.count_read(what, &answer, findings.iter().any(|finding| !finding.kept));
        self.record(what, cell, &answer, &findings);
        self.previous = Some((answer.node, answer.replica));
        Ok(())
    }

    /// Writes the own row (`asked`) or increases a counter; returns the row's new value.
    async fn write(
        &mut self,
        link: &mut Connection,
        what: &Transaction,
        cell: Cell,
        asked: Option<i64>,
    ) -> Result<i64, StatementError> {
        let row = schema::row(cell, self.number);
        let question = match asked {
            Some(value) => Question::Write { row, value },
            None => Question::Increase { row },
        };
        let answer = link.ask(&self.shared.texts, question, what.form).await?;
        let findings = if answer.row == row {
            self.checker.returned(cell, answer.value, asked)
        } else {
            vec![foreign(row)]
        };
        self.record(what, cell, &answer, &findings);
        Ok(answer.value)
    }

    fn commit(&mut self, pending: [Option<i64>; Cell::COUNT]) {
        for cell in [Cell::Own, Cell::Shared, Cell::First, Cell::Second] {
            if let Some(value) = pending[cell.index()] {
                self.checker.acknowledge(cell, value);
                self.shared.published[cell.index()].fetch_max(value, Ordering::SeqCst);
                self.tally.writes += 1;
            }
        }
    }

    fn count_read(&mut self, what: &Transaction, answer: &Answer, violating: bool) {
        let replica = u64::from(answer.replica);
        let violating = u64::from(violating);
        self.tally.reads += 1;
        self.tally.replica_reads += replica;
        self.tally.violating_reads += violating;
        let block = if what.block {
            "BEGIN…COMMIT"
        } else {
            "autocommit"
        };
        let form = self
            .tally
            .forms
            .entry((what.form.name(), block))
            .or_default();
        form.reads += 1;
        form.replica_reads += replica;
        form.violating_reads += violating;
        let node = self.tally.nodes.entry(answer.node.clone()).or_default();
        node.reads_as_replica += replica;
        node.reads_as_primary += 1 - replica;
        node.violating_reads += violating;
        let moves = &mut self.tally.moves;
        match &self.previous {
            Some((_, true)) if !answer.replica => moves.replica_to_primary += 1,
            Some((_, false)) if answer.replica => moves.primary_to_replica += 1,
            Some((node, true)) if *node != answer.node => moves.replica_to_replica += 1,
            _ => {}
        }
    }

    fn record(&mut self, what: &Transaction, cell: Cell, answer: &Answer, findings: &[Finding]) {
        if self.tally.findings(findings) == 0 {
            return;
        }
        for finding in findings.iter().filter(|finding| !finding.kept) {
            if self.tally.examples.len() >= self.options.examples {
                return;
            }
            self.tally.examples.push(Violation {
                at_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                session: self.name.clone(),
                guarantee: finding.guarantee,
                cell,
                expected: finding.expected,
                seen: answer.value,
                node: answer.node.clone(),
                replica: answer.replica,
                previous_node: self.previous.as_ref().map(|(node, _)| node.clone()),
                form: what.form,
                block: what.block,
            });
        }
    }

    /// The connection for the next transaction: 0 is the target, the others are read targets.
    fn place(&mut self, writes: bool) -> usize {
        let readers = self.options.read_targets.len();
        if writes || readers == 0 {
            return 0;
        }
        self.next_reader = self.next_reader.wrapping_add(1);
        1 + self.next_reader % readers
    }

    /// Takes the connection out, making a new one first if it was lost. None once the check has been
    /// stopped.
    async fn take_link(&mut self, place: usize) -> Option<Connection> {
        if let Some(link) = self.links[place].take() {
            return Some(link);
        }
        let mut backoff = FIRST_BACKOFF;
        while !self.shared.is_stopped() {
            match self.connect(place).await {
                Ok(link) => {
                    self.tally.reconnects += 1;
                    if !self.options.session_key {
                        self.checker.forget();
                        self.previous = None;
                    }
                    return Some(link);
                }
                Err(failure) => self.tally.error(Operation::Connect, &failure),
            }
            self.pause(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
        None
    }

    async fn connect(&self, place: usize) -> Result<Connection, StatementError> {
        let endpoint: &Endpoint = match place {
            0 => &self.options.target,
            other => &self.options.read_targets[other - 1],
        };
        let mut settings = Vec::new();
        if let Some(level) = &self.options.consistency {
            let level = level.replace('\'', "''");
            settings.push(format!("SET causeway.consistency = '{level}'"));
        }
        if self.options.session_key {
            let (schema, number) = (&self.options.schema, self.number);
            settings.push(format!("SET causeway.session = '{schema}:{number}'"));
        }
        Connection::open(endpoint, &settings, self.options.statement_timeout).await
    }

    async fn await_table(&self, link: &mut Connection, nonce: i64) -> Result<(), StatementError> {
        let end = Instant::now() + self.options.setup_timeout;
        let question = Question::Read { row: NONCE_ROW };
        let mut sightings = 0;
        while sightings < SIGHTINGS {
            let form = self.options.forms[sightings % self.options.forms.len()];
            let reason = match link.ask(&self.shared.texts, question, form).await {
                Ok(answer) if answer.value == nonce => {
                    sightings += 1;
                    continue;
                }
                Ok(_) => StatementError {
                    code: "stale".to_owned(),
                    message: "a replica still shows an earlier check's table".to_owned(),
                    lost: false,
                },
                Err(failure) if failure.lost => return Err(failure),
                Err(failure) => failure,
            };
            if Instant::now() >= end {
                return Err(reason);
            }
            sightings = 0;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn pause(&self, duration: Duration) {
        let _ = tokio::time::timeout(duration, self.shared.stopped()).await;
    }
}

fn foreign(row: i32) -> Finding {
    Finding {
        guarantee: super::checker::Guarantee::Provenance,
        expected: i64::from(row),
        kept: false,
    }
}
