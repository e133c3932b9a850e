//! The heart of the promise, in any order of events: whenever `decide` sends a session somewhere,
//! the server there shows everything that the session has seen, at whatever moment after that the
//! statement runs.

use std::collections::BTreeSet;

use super::model::{Monitor, NODES, Servers, Xid};
use pgcauseway::core::route::{Decision, Policy, Question, Reason, Route, decide};
use pgcauseway::core::session::{Cover, Level, LifeAt, Seen};
use pgcauseway::core::statement::Access;
use pgcauseway::core::topology::NodeSet;
use proptest::prelude::*;

const SESSIONS: usize = 5;
const STEP_US: u64 = 100;
const POLICY: Policy = Policy {
    lossless: false,
    catchup_wait_us: 10_000,
    max_lag_us: u64::MAX,
    // Without proof it waits for ever: what happens when patience ends is not promised.
    visibility_wait_us: u64::MAX / 2,
};

/// What may happen next.
#[derive(Clone, Debug)]
enum Event {
    /// So many steps of a node's probe.
    Probe(usize, usize),
    LoseProbe(usize),
    Flush,
    Replay(usize, usize),
    Restart(usize, usize),
    /// The primary's `synchronous_commit` is turned off, and nobody says so.
    Reload,
    /// A session does the next step of what it is doing, or begins something new.
    Session(usize, Want, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Read,
    EventualRead,
    Write,
    AsynchronousWrite,
    EventualWrite,
    /// A read that belongs on the primary.
    PrimaryRead,
    /// An asynchronous commit of a client of another proxy: nobody here is told.
    WriteElsewhere,
}

impl Want {
    fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::EventualRead | Self::PrimaryRead)
    }

    fn access(self) -> Access {
        match self {
            Self::Read | Self::EventualRead => Access::Read,
            _ => Access::Write,
        }
    }

    fn level(self) -> Level {
        match self {
            Self::EventualRead | Self::EventualWrite | Self::WriteElsewhere => Level::Eventual,
            _ => Level::Session,
        }
    }
}

/// How far a session's unit has got.
#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Waiting(Want),
    Routed(Want, Route),
    /// A read has been carried out; the session learns of it next.
    Answered(Want, Route, BTreeSet<Xid>),
    /// A write has seen what was there, and goes on.
    Begun(Want, Route, Xid, BTreeSet<Xid>),
    Logged(Want, Route, Xid, BTreeSet<Xid>),
    Shown(Want, Route, Xid, BTreeSet<Xid>),
}

#[derive(Default)]
struct Session {
    seen: Seen,
    /// The truth that `seen` stands for.
    knows: BTreeSet<Xid>,
    stage: Stage,
}

/// How often what was put to the test, so that a silent property is not an empty one.
#[derive(Debug, Default)]
struct Tried {
    same_standby: usize,
    caught_up: usize,
    behind: usize,
    standby_to_primary: usize,
    waits: usize,
    stale_standby_avoided: usize,
}

struct World {
    servers: Servers,
    monitor: Monitor,
    sessions: [Session; SESSIONS],
    now_us: u64,
    tried: Tried,
}

impl World {
    fn new() -> Self {
        Self {
            servers: Servers::default(),
            monitor: Monitor::new(),
            sessions: Default::default(),
            now_us: 0,
            tried: Tried::default(),
        }
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        self.now_us += STEP_US;
        match *event {
            Event::Probe(node, steps) => {
                for _ in 0..steps {
                    self.monitor.step(node, &self.servers, self.now_us);
                }
            }
            Event::LoseProbe(node) => self.monitor.lose(node),
            Event::Flush => self.servers.flush(),
            Event::Replay(standby, records) => self.servers.replay(standby, records),
            Event::Restart(standby, back) => self.servers.restart(standby, back),
            Event::Reload => self.servers.asynchronous = true,
            Event::Session(index, want, patient) => self.advance(index, want, patient)?,
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, want: Want, patient: bool) -> Result<(), TestCaseError> {
        let stage = std::mem::take(&mut self.sessions[index].stage);
        self.sessions[index].stage = match stage {
            Stage::Idle => self.route(index, want, patient),
            Stage::Waiting(want) => self.route(index, want, patient),
            Stage::Routed(want, route) => {
                let node = usize::from(route.node.0);
                let (gauge, server_life) = &self.monitor.known[&route.incarnation];
                if *server_life != self.servers.lives[node] {
                    // The server connection broke: the unit is routed again.
                    return Ok(());
                }
                let sees = self.servers.sees(node);
                if want.level() == Level::Session {
                    let missing: Vec<_> = self.sessions[index].knows.difference(&sees).collect();
                    prop_assert!(
                        missing.is_empty(),
                        "{want:?} by {route:?} misses {missing:?}"
                    );
                }
                if want == Want::AsynchronousWrite {
                    gauge.asynchronous_begins();
                }
                match want.writes() {
                    true => Stage::Begun(want, route, self.servers.begin(), sees),
                    false => Stage::Answered(want, route, sees),
                }
            }
            Stage::Begun(want, route, xid, saw) => {
                let asynchronous = matches!(want, Want::AsynchronousWrite | Want::WriteElsewhere);
                self.servers.log(xid, asynchronous);
                Stage::Logged(want, route, xid, saw)
            }
            // Shipped and not shown yet, for a while, as under synchronous replication.
            Stage::Logged(then, route, xid, saw) if want != Want::Write => {
                Stage::Logged(then, route, xid, saw)
            }
            Stage::Logged(want, route, xid, saw) => {
                self.servers.show(xid);
                Stage::Shown(want, route, xid, saw)
            }
            Stage::Shown(want, route, xid, mut saw) => {
                saw.insert(xid);
                self.end(index, want, route, saw);
                Stage::Idle
            }
            Stage::Answered(want, route, saw) => {
                self.end(index, want, route, saw);
                Stage::Idle
            }
        };
        Ok(())
    }

    fn route(&mut self, index: usize, want: Want, patient: bool) -> Stage {
        let session = &mut self.sessions[index];
        let came_from = session.seen.mark().map(|mark| mark.node.0);
        let question = Question {
            access: want.access(),
            write_reason: None,
            level: want.level(),
            exclude: NodeSet::default(),
            waited_us: if patient { 0 } else { 20_000 },
            now_us: self.now_us,
            load: &[0; NODES],
            salt: index as u64,
        };
        let topology = &self.monitor.topology;
        let decision = decide(&question, &mut session.seen, topology, &POLICY);
        let Decision::Go(route) = decision else {
            self.tried.waits += 1;
            return Stage::Waiting(want);
        };
        match route.reason {
            Reason::SameStandby => self.tried.same_standby += 1,
            Reason::CaughtUp => self.tried.caught_up += 1,
            Reason::StandbysBehind => self.tried.behind += 1,
            _ => {}
        }
        if route.primary && came_from.is_some_and(|node| node > 0) {
            self.tried.standby_to_primary += 1;
        }
        let stale = (1..NODES).any(|node| !session.knows.is_subset(&self.servers.sees(node)));
        if want == Want::Read && stale {
            self.tried.stale_standby_avoided += 1;
        }
        Stage::Routed(want, route)
    }

    /// The client has its answer: the mark moves, as in `client::session`.
    fn end(&mut self, index: usize, want: Want, route: Route, learnt: BTreeSet<Xid>) {
        let (gauge, _) = &self.monitor.known[&route.incarnation];
        let session = &mut self.sessions[index];
        let life = LifeAt {
            incarnation: route.incarnation,
            gauge,
        };
        if matches!(want, Want::EventualRead | Want::WriteElsewhere) {
            return;
        }
        session.knows.extend(learnt);
        if route.primary {
            let cover = match want {
                Want::AsynchronousWrite => Cover::Insert,
                Want::Write | Want::EventualWrite => Cover::Flush,
                _ => Cover::Shown,
            };
            session.seen.ended_on_primary(route.node, life, cover);
        } else {
            session.seen.read_on_standby(route.node, life);
        }
        if want == Want::AsynchronousWrite {
            gauge.asynchronous_ended();
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let standby = 1..NODES;
    let want = prop_oneof![
        6 => Just(Want::Read),
        1 => Just(Want::EventualRead),
        3 => Just(Want::Write),
        1 => Just(Want::AsynchronousWrite),
        1 => Just(Want::EventualWrite),
        1 => Just(Want::PrimaryRead),
        1 => Just(Want::WriteElsewhere),
    ];
    prop_oneof![
        40 => (0..NODES, 1..5_usize).prop_map(|(node, steps)| Event::Probe(node, steps)),
        1 => (0..NODES).prop_map(Event::LoseProbe),
        3 => Just(Event::Flush),
        1 => Just(Event::Reload),
        12 => (standby.clone(), 1..8_usize).prop_map(|(node, by)| Event::Replay(node, by)),
        2 => (standby, 0..6_usize).prop_map(|(node, back)| Event::Restart(node, back)),
        40 => (0..SESSIONS, want, any::<bool>()).prop_map(|(i, want, p)| Event::Session(i, want, p)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_is_only_sent_where_everything_it_has_seen_is_shown(
        events in prop::collection::vec(event(), 20..500),
    ) {
        let mut world = World::new();
        for event in &events {
            world.apply(event)?;
        }
    }
}

/// The property above would also hold if everything went to the primary, or waited for ever.
#[test]
fn the_histories_put_the_rules_to_the_test() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(event(), 600);
    let mut total = Tried::default();
    let mut resumed = 0;
    for _ in 0..100 {
        let mut world = World::new();
        for event in histories.new_tree(&mut runner).unwrap().current() {
            world.apply(&event).unwrap();
        }
        let tried = world.tried;
        total.same_standby += tried.same_standby;
        total.caught_up += tried.caught_up;
        total.behind += tried.behind;
        total.standby_to_primary += tried.standby_to_primary;
        total.waits += tried.waits;
        total.stale_standby_avoided += tried.stale_standby_avoided;
        resumed += world.monitor.resumed;
    }
    println!("{total:?}, {resumed} lives went on");
    for count in [
        resumed,
        total.same_standby,
        total.caught_up,
        total.behind,
        total.standby_to_primary,
        total.waits,
        total.stale_standby_avoided,
    ] {
        assert!(count > 200, "{total:?}");
    }
}
