//! What a session is, apart from the server connection that it happens to hold: its settings, its
//! transaction, its prepared statements, what it has seen, and what it has left where.
//!
//! Changed by what servers answer, statement by statement; asked by whoever places or prepares.

pub(super) mod aftermath;
mod application_name;
mod asked;
mod channels;
pub(super) mod last_route;
pub(super) mod lost;
pub(super) mod names;
mod noted;
mod within;

use std::sync::Arc;
use std::time::Duration;

use self::aftermath::{Aftermath, Doubt};
use self::application_name::{APPLICATION_NAME, ApplicationName};
use self::channels::Channels;
use self::last_route::LastRoute;
use self::lost::Aborted;
use self::names::Names;
use self::noted::Noted;
use self::within::Within;
use crate::backend::prepared::Reading;
use crate::backend::server::Conversation;
use crate::backend::settings::Settings;
use crate::core::exchange::{Finished, TransactionStatus};
use crate::core::flushes::Flushes;
use crate::core::mutant::{Rule, holds};
use crate::core::residue::Pins;
use crate::core::session::{Level, Seen};
use crate::core::statement::{Effect, PinReason, of_statement};
use crate::core::transaction::{Change, Transaction};
use crate::sql::{Encoding, Lexical};

const IDLE_TIMEOUT: &str = "idle_session_timeout";

/// A session's own state.
#[derive(Debug)]
pub(in crate::client) struct State {
    /// Settings to be found on every server connection that the session uses.
    settings: Arc<Settings>,
    pub(in crate::client) application_name: ApplicationName,
    /// Under what its texts are parsed outside of a transaction.
    reading: Reading,
    within: Within,
    /// The session's own number, where its temporary objects hide others'.
    own_meaning: u64,
    transaction: Transaction,
    /// Custom settings that the unit under way has named, whatever became of them.
    custom: Noted<str>,
    /// Settings and the like whose change was seen in the unit under way, by name.
    touched: Noted<str>,
    /// All of them may have changed, by RESET ALL or DISCARD ALL.
    touched_all: bool,
    /// Reported by the server in the unit under way, and not yet explained.
    reported: Noted<str>,
    /// How its texts are read, as far as anybody knows.
    lexical: Lexical,
    pins: Pins,
    /// Pins came or went in the open transaction: a ROLLBACK may take that back.
    pins_pending: bool,
    doubt: Option<Doubt>,
    /// Worth a question although nothing unknown ran: a pin may have ended.
    may_be_free: bool,
    defines: bool,
    borne_silence: Option<Duration>,
    default_level: Level,
    chosen_level: Option<Level>,
    pub(in crate::client) after: Aftermath,
    /// What the held connection has flushed.
    pub(in crate::client) flushes: Flushes,
    pub(in crate::client) channels: Channels,
    pub(in crate::client) seen: Seen,
    pub(in crate::client) names: Names,
    pub(in crate::client) aborted: Aborted,
    pub(in crate::client) last_route: Option<LastRoute>,
    committed: Vec<Change>,
}

impl State {
    /// A session at login. `own_meaning` is not zero and nobody else's.
    pub(in crate::client) fn new(
        default_level: Level,
        own_meaning: u64,
        lexical: Lexical,
        application_name: Option<String>,
    ) -> Self {
        let mut settings = Settings::default();
        if let Some(name) = &application_name {
            settings.set_value(APPLICATION_NAME, name.as_bytes());
        }
        Self {
            settings: Arc::new(settings),
            application_name: ApplicationName::new(application_name),
            reading: Reading::default(),
            within: Within::default(),
            own_meaning,
            transaction: Transaction::default(),
            custom: Noted::default(),
            touched: Noted::default(),
            touched_all: false,
            reported: Noted::default(),
            lexical,
            pins: Pins::default(),
            pins_pending: false,
            doubt: None,
            may_be_free: false,
            defines: false,
            borne_silence: None,
            default_level,
            chosen_level: None,
            after: Aftermath::default(),
            flushes: Flushes::default(),
            channels: Channels::default(),
            seen: Seen::default(),
            names: Names::default(),
            aborted: Aborted::default(),
            last_route: None,
            committed: Vec::new(),
        }
    }

    /// Settings to be found on the session's server connection, outside of a transaction.
    pub(in crate::client) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The settings without those that a batch with these effects gives up or makes anew; none if it does
    /// so with none.
    pub(in crate::client) fn settings_beside<'a>(
        &self,
        effects: impl Iterator<Item = &'a Effect>,
    ) -> Option<Arc<Settings>> {
        let mut settings = Settings::clone(&self.settings);
        for effect in effects {
            match effect {
                Effect::Set {
                    name, local: false, ..
                } => settings.reset(name),
                Effect::ResetAll => settings.reset_all(),
                Effect::DiscardAll => settings = Settings::default(),
                _ => {}
            }
        }
        (settings != *self.settings).then(|| Arc::new(settings))
    }

    /// The consistency level in force.
    pub(in crate::client) fn level(&self) -> Level {
        let mut pending = self.transaction.changes().rev();
        let chosen = pending.find_map(|change| match change {
            Change::Level(level) => Some(*level),
            _ => None,
        });
        chosen
            .unwrap_or(self.chosen_level)
            .unwrap_or(self.default_level)
    }

    /// `SET [LOCAL] causeway.consistency`, or a reset of it, in the transaction that is open, if one is.
    pub(in crate::client) fn set_level(&mut self, level: Option<Level>, local: bool) {
        if self.transaction.is_clean() && !local {
            self.chosen_level = level;
        } else {
            self.transaction.push(Change::Level(level), local);
        }
    }

    /// How the session's texts are read.
    pub(in crate::client) fn lexical(&self) -> Lexical {
        self.lexical
    }

    /// The settings, with what the open transaction has changed.
    pub(in crate::client) fn in_force(&self) -> Arc<Settings> {
        let mut settings = Arc::clone(&self.settings);
        for change in self.transaction.changes() {
            apply(Arc::make_mut(&mut settings), change);
        }
        self.within.correct(&mut settings);
        settings
    }

    /// The statements that bring another server connection to where the open transaction stands, if that
    /// can be done after it has read, or has not.
    pub(in crate::client) fn replay(&self, has_read: bool) -> Option<Vec<String>> {
        let by_default = self.settings.contains("default_transaction_isolation");
        if !self.pins.is_empty() || self.doubt.is_some() || by_default && has_read {
            return None;
        }
        self.transaction.replay(has_read)
    }

    /// Whether what runs now may change definitions for others: by itself, or by its transaction's end.
    pub(in crate::client) fn may_define<'a>(
        &self,
        mut effects: impl Iterator<Item = &'a Effect>,
    ) -> bool {
        self.defines || effects.any(|effect| *effect == Effect::Ddl)
    }

    /// Whether `synchronous_commit` may differ from the server's default in this session.
    pub(in crate::client) fn may_commit_async(&self) -> bool {
        const NAME: &str = "synchronous_commit";
        let pending =
            |change: &Change| matches!(change, Change::Set { name, .. } if &**name == NAME);
        self.settings.contains(NAME) || self.transaction.changes().any(pending)
    }

    /// After how much silence the session ends, if it has asked for that; none for never.
    ///
    /// The server that would end it is the session's own only while it holds one.
    pub(in crate::client) fn idle_timeout(&self) -> Option<Duration> {
        self.settings.duration(IDLE_TIMEOUT)
    }

    /// What keeps the session on its server connection.
    pub(in crate::client) fn pins(&self) -> Pins {
        self.pins
    }

    /// What the held server connection listens to is known, and keeps the session there or not. Whether it
    /// did before.
    pub(in crate::client) fn listens_here(&mut self, listens: bool) -> bool {
        self.channels.settled();
        let before = self.pins.contains(PinReason::Listen);
        match listens {
            true => self.pins.insert(PinReason::Listen),
            false => self.pins.remove(PinReason::Listen),
        }
        before
    }

    /// What it takes to remember all of this, in bytes, without what sessions share.
    pub(in crate::client) fn bytes(&self) -> usize {
        let noted = [&self.custom, &self.touched, &self.reported].map(Noted::bytes);
        let doubt = self.doubt.as_ref().map_or(0, |doubt| doubt.names.bytes());
        let kept = self.settings.bytes() + self.transaction.bytes() + self.names.own_bytes();
        let kept = kept + self.reading.basis.bytes() + self.within.bytes();
        kept + noted.into_iter().sum::<usize>() + doubt + self.channels.bytes()
    }

    /// Whether nothing has happened that anybody must be asked about, or told.
    pub(in crate::client) fn is_settled(&self) -> bool {
        self.doubt.is_none() && !self.may_be_free
    }

    /// Whether something ran that does not tell what it leaves.
    pub(in crate::client) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// What the session is pinned for may have ended without its doing: worth a question.
    pub(in crate::client) fn may_be_free(&mut self) {
        self.may_be_free |= holds(Rule::PinsEnd);
    }

    /// After how much silence the held server ends the session, as it said when it was last asked.
    pub(in crate::client) fn borne_silence(&self) -> Option<Duration> {
        self.borne_silence
    }

    /// A statement with effects has completed, with `tag`, or was given up.
    pub(in crate::client) fn finished(
        &mut self,
        finished: &Finished,
        tag: &[u8],
        talk: &mut Conversation,
    ) {
        for step in of_statement(&finished.effects, finished.statement) {
            if finished.completed {
                self.completed(&step.effect, tag, talk);
            } else {
                self.attempted(&step.effect, talk);
            }
        }
    }

    fn completed(&mut self, effect: &Effect, tag: &[u8], talk: &mut Conversation) {
        match effect {
            Effect::Begin { .. }
            | Effect::End { .. }
            | Effect::Rollback { .. }
            | Effect::Savepoint(_)
            | Effect::Release(_)
            | Effect::RollbackTo(_) => {
                if tag.starts_with(b"ROLLBACK") {
                    self.rolled_back();
                }
                self.transaction.completed(effect, tag, &mut self.committed);
            }
            Effect::Set { name, .. } => {
                if name.contains('.') {
                    self.custom.insert(name.clone());
                }
                self.touched.insert(name.clone());
                self.transaction.completed(effect, tag, &mut self.committed);
            }
            Effect::ResetAll => {
                self.touched_all = true;
                self.transaction.completed(effect, tag, &mut self.committed);
            }
            Effect::DiscardAll => self.discarded(talk),
            Effect::DiscardTemp => self.unpin(PinReason::TemporaryObject),
            Effect::DiscardSequences => self.after.discarded_numbers = true,
            Effect::Deallocate(name) => self.deallocated(name.as_deref(), talk),
            Effect::Pin(reason) => {
                self.pins.insert(*reason);
                self.pins_pending = true;
            }
            Effect::Unpin(reason) => self.unpin(*reason),
            Effect::Opaque(_) if !holds(Rule::OpaqueIsAsked) => {}
            Effect::Opaque(opaque) => {
                self.within.sets();
                self.doubt_of(opaque);
            }
            Effect::SetsWithin => self.within.sets(),
            Effect::Prepare { name, effects } => self.names.prepared(name, effects),
            // EXPLAIN may not have run it.
            Effect::Execute(_) if tag.starts_with(b"EXPLAIN") => self.attempted(effect, talk),
            Effect::Execute(name) => match self.names.executed(name) {
                Some(effects) => {
                    effects
                        .iter()
                        .for_each(|effect| self.completed(effect, tag, talk));
                }
                None => self.doubt(&[], true),
            },
            Effect::DrawsNumber => self.after.drew = true,
            Effect::Listen => {
                talk.listens = true;
                self.channels.listened();
            }
            Effect::Unlisten => self.channels.unlistened(),
            Effect::Renew(renew) => self.after.renew.push(renew.clone()),
            // Others see it once the transaction ends.
            Effect::Ddl => (self.after.ddl, self.defines) = (true, true),
            Effect::SetOwn { name, value, local } if &**name == "consistency" => {
                let level = value.as_deref().and_then(|value| value.parse().ok());
                self.transaction.push(Change::Level(level), *local);
            }
            Effect::AsksNumber
            | Effect::NamesStatements
            | Effect::Declare
            | Effect::PrimaryOnly
            | Effect::DiscardPlans
            | Effect::Notify
            | Effect::Terminates
            | Effect::AsksChannels
            | Effect::SetOwn { .. }
            | Effect::ShowOwn(_) => {}
        }
    }

    /// A statement began and did not complete: what no ROLLBACK takes back may have happened.
    fn attempted(&mut self, effect: &Effect, talk: &mut Conversation) {
        match effect {
            _ if !holds(Rule::LocksOutliveErrors) => {}
            Effect::Pin(reason) if reason.stays_in_process() => self.completed(effect, b"", talk),
            Effect::Pin(_) | Effect::DiscardAll => self.doubt(&[], false),
            Effect::Opaque(opaque) => self.doubt_of(opaque),
            Effect::Execute(name) => match self.names.executed(name) {
                Some(effects) => {
                    effects
                        .iter()
                        .for_each(|effect| self.attempted(effect, talk));
                }
                None => self.doubt(&[], false),
            },
            Effect::DrawsNumber => self.after.drew = true,
            Effect::Unpin(_) => self.may_be_free |= !self.pins.is_empty(),
            _ => {}
        }
    }

    /// ErrorResponse.
    pub(in crate::client) fn failed(&mut self) {
        self.transaction.error();
        self.names.failed();
        self.flushes.failed();
        self.rolled_back();
    }

    fn rolled_back(&mut self) {
        if self.pins_pending {
            self.doubt(&[], false);
        }
    }

    /// ParameterStatus: the server shows this from now on.
    pub(in crate::client) fn reported(&mut self, name: &str, value: &str) {
        self.lexical.reported(name, value);
        self.within.reported(name, value);
        self.reported.insert(name.to_ascii_lowercase().into());
    }

    /// ReadyForQuery.
    pub(in crate::client) fn ready(&mut self, status: TransactionStatus, talk: &Conversation) {
        let idle = status == TransactionStatus::Idle;
        self.names.ready();
        if idle {
            self.within.ended();
            self.names.transaction_ended();
            self.flushes.committed();
            self.after.ddl |= std::mem::take(&mut self.defines);
        }
        if idle
            && self.transaction.is_clean()
            && self.reported.is_empty()
            && self.committed.is_empty()
        {
            self.pins_pending = false;
            self.untouched();
            return;
        }
        if self.transaction.ready(status, &mut self.committed).is_err() {
            self.doubt(&[], false);
        }
        let committed = std::mem::take(&mut self.committed);
        self.commit(&committed, talk);
        if idle {
            self.pins_pending = false;
            let unexplained = |name: &str| {
                !self.touched_all
                    && !self.touched.contains(name)
                    && !matches!(
                        name,
                        "in_hot_standby" | "is_superuser" | "session_authorization"
                    )
            };
            if self.reported.iter().any(unexplained) {
                self.doubt(&[], false);
            }
            self.reported.clear();
            self.untouched();
        }
    }

    fn commit(&mut self, changes: &[Change], talk: &Conversation) {
        for change in changes {
            match change {
                Change::Level(level) => self.chosen_level = *level,
                Change::ResetAll => {
                    self.pins.remove(PinReason::Settings);
                    apply(Arc::make_mut(&mut self.settings), change);
                    self.after.settings_changed = true;
                }
                Change::Set { name, sql: Some(_) } => {
                    let settings = Arc::make_mut(&mut self.settings);
                    apply(settings, change);
                    // As the server shows it: DateStyle, for one, is merged with what it was.
                    let shown = talk
                        .reported
                        .iter()
                        .find(|(known, _)| known.eq_ignore_ascii_case(name));
                    if let Some((_, value)) = shown {
                        settings.set_value(name, value.as_bytes());
                    }
                    self.after.settings_changed = true;
                }
                _ => {
                    apply(Arc::make_mut(&mut self.settings), change);
                    self.after.settings_changed = true;
                }
            }
        }
        if self.after.settings_changed {
            self.settings_changed();
            self.restore_application_name();
        }
    }

    fn restore_application_name(&mut self) {
        if let Some(name) = self.application_name.own()
            && !self.settings.contains(APPLICATION_NAME)
        {
            Arc::make_mut(&mut self.settings).set_value(APPLICATION_NAME, name.as_bytes());
            self.after.renamed = true;
        }
    }

    /// What gives the session its own name back inside a transaction that has reset it: the server's default
    /// is not the client's.
    pub(in crate::client) fn restores_name(&mut self) -> Option<String> {
        let own = self.application_name.own()?;
        if !own.is_ascii() && self.lexical.encoding != Encoding::Utf8 {
            return None;
        }
        let local = self.transaction.has_reset(APPLICATION_NAME)?;
        let set = |local| application_name::set(own, local);
        let change = Change::Set {
            name: APPLICATION_NAME.into(),
            sql: Some(set("").into()),
        };
        self.transaction.push(change, local);
        Some(set(if local { "LOCAL " } else { "" }))
    }

    fn discarded(&mut self, talk: &mut Conversation) {
        self.touched_all = true;
        if holds(Rule::DiscardEndsSettings) {
            self.settings = Arc::default();
        }
        self.restore_application_name();
        self.settings_changed();
        self.chosen_level = None;
        for reason in self.pins.iter().filter(|reason| !reason.stays_in_process()) {
            self.pins.remove(reason);
        }
        self.channels.unlistened();
        self.doubt = None;
        self.may_be_free = false;
        self.after.settings_changed = true;
        self.after.discarded_numbers = true;
        self.deallocated(None, talk);
    }

    fn deallocated(&mut self, name: Option<&str>, talk: &mut Conversation) {
        match name {
            Some(name) => {
                self.names.close(name.as_bytes());
                talk.exposed.remove(name.as_bytes());
            }
            // What other sessions had prepared on this connection was struck out as it was sent.
            None => {
                talk.dropped();
                self.names.clear();
            }
        }
        self.unpin(PinReason::SqlPrepare);
    }

    fn unpin(&mut self, reason: PinReason) {
        self.may_be_free |= self.pins.contains(reason) && holds(Rule::PinsEnd);
        self.pins_pending = true;
    }

    fn untouched(&mut self) {
        self.touched.clear();
        self.touched_all = false;
    }

    /// Nothing is open on the server connection, and what it holds is known.
    pub(in crate::client) fn unit_ended(&mut self) {
        self.custom.clear();
    }

    /// The settings that a connection has on which the session has changed its own.
    pub(in crate::client) fn applied(&self) -> Arc<Settings> {
        if !self.after.renamed {
            return Arc::clone(&self.settings);
        }
        let mut settings = Settings::clone(&self.settings);
        settings.reset(APPLICATION_NAME);
        Arc::new(settings)
    }

    /// The server connection is lost, and with it the transaction and what stood on the connection.
    pub(in crate::client) fn server_lost(&mut self) {
        self.transaction.lost();
        self.within.ended();
        self.flushes.failed();
        self.names.failed();
        self.names.transaction_ended();
        self.names.forget_sql();
        self.pins = Pins::default();
        self.pins_pending = false;
        self.doubt = None;
        self.may_be_free = false;
        self.untouched();
        self.reported.clear();
        self.committed.clear();
        self.channels.lost();
    }
}

fn apply(settings: &mut Settings, change: &Change) {
    match change {
        Change::Set {
            name,
            sql: Some(sql),
        } => settings.set(name, sql.as_bytes()),
        Change::Set { name, sql: None } => settings.reset(name),
        Change::ResetAll => settings.reset_all(),
        Change::Level(_) => {}
    }
}
