//! The decisions as tables: one cluster, drawn in a few numbers, one question, one answer.

mod told;
mod under_way;

use std::sync::Arc;

use super::gauge::{Gauge, Measurement, Position};
use super::lsn::{Lsn, Timeline};
use super::replication::Bond;
use super::route::{Decision, Policy, Question, decide};
use super::session::{Cover, Level, LifeAt, Seen, ShownBy};
use super::statement::Access;
use super::timeline::{TimelineHistory, TimelineSwitch};
use super::topology::{Incarnation, Lag, Life, NodeId, NodeSet, NodeView, Role, Topology, Writer};
use super::visibility::{FinishedIds, Snapshot, parse_snapshot};

const MS: u64 = 1000;
const POLICY: Policy = Policy {
    catchup_wait_us: 10 * MS,
    max_lag_us: 1000 * MS,
    visibility_wait_us: 1000 * MS,
    lossless: false,
};
const NOW: u64 = 1_000_000;

/// One primary and two standbys, of incarnations 1, 2 and 3, measured by probes 1 to 5.
struct Cluster(Topology);

impl Cluster {
    /// Everybody stands at 500; the primary was seen there first 50 ms ago.
    fn even() -> Self {
        let mut cluster = Self(Topology::default());
        for id in 0..3 {
            cluster.0.nodes.push(NodeView {
                id: NodeId(id),
                name: Arc::from("node"),
                weight: 1,
                near: true,
                life: None,
                barred: false,
                suspended: false,
                drained: false,
                previous: Arc::default(),
                silent: None,
            });
        }
        cluster.life(0, 1, Role::Primary(Snapshot::default()));
        for id in [1, 2] {
            let role = Role::Standby(FinishedIds::default());
            cluster.life(id, u64::from(id) + 1, role);
        }
        cluster
    }

    fn life(&mut self, id: u16, incarnation: u64, role: Role) {
        let gauge = Arc::new(Gauge::default());
        let mut latest = Measurement::default();
        for probe in 1..=5 {
            gauge.next_probe();
            latest = measured(probe, probe * 100, NOW - (10 - probe) * 10 * MS);
            gauge.record(latest);
        }
        self.0.nodes[usize::from(id)].life = Some(Life {
            incarnation: Incarnation(incarnation),
            role,
            timeline: Timeline(1),
            history: Some(Arc::default()),
            system: Some(7),
            latest,
            gauge,
        });
    }

    fn of(&mut self, id: u16) -> &mut Life {
        self.0.nodes[usize::from(id)].life.as_mut().unwrap()
    }

    fn down(mut self, id: u16) -> Self {
        self.0.nodes[usize::from(id)].life = None;
        self
    }

    /// A standby was found at this position by its latest probe, just now.
    fn behind(mut self, id: u16, lsn: u64) -> Self {
        self.of(id).latest = measured(5, lsn, NOW);
        self
    }

    fn finished(mut self, id: u16, probe: u64, xmax: u64, still_running: &[u64]) -> Self {
        let life = self.of(id);
        life.latest.probe = probe;
        life.role = Role::Standby(FinishedIds {
            xmax,
            still_running: Arc::from(still_running),
            at_least: life.latest.position.flush,
        });
        self
    }

    fn snapshot(mut self, text: &str) -> Self {
        self.of(0).role = Role::Primary(parse_snapshot(text).unwrap());
        self
    }

    /// A session whose last transaction ended on a node as its counter stood at `probe`.
    fn session(&self, id: u16, probe: u64) -> Seen {
        let life = self.0.nodes[usize::from(id)].life.as_ref().unwrap();
        let gauge = Gauge::default();
        for _ in 0..probe {
            gauge.record(measured(gauge.next_probe(), 0, 0));
        }
        let at = LifeAt {
            incarnation: life.incarnation,
            gauge: &gauge,
        };
        let mut seen = Seen::default();
        match id {
            0 => seen.ended_on_primary(NodeId(id), at, Cover::Flush),
            _ => seen.read_on_standby(NodeId(id), at),
        }
        seen
    }
}

fn measured(probe: u64, lsn: u64, at_us: u64) -> Measurement {
    let position = Position::replayed(Lsn(lsn));
    Measurement {
        probe,
        position,
        at_us,
        timeline: Timeline(1),
        asynchronous: false,
    }
}

fn question(access: Access, level: Level) -> Question<'static> {
    Question {
        access,
        write_reason: None,
        level,
        exclude: NodeSet::default(),
        waited_us: 0,
        now_us: NOW,
        load: &[0, 0, 0],
        salt: 0,
    }
}

const READ: (Access, Level) = (Access::Read, Level::Session);
const WRITE: (Access, Level) = (Access::Write, Level::Session);

/// `pg2: why`, `wait for pg1 pg2`, or `no primary`.
fn ask(cluster: &Cluster, seen: &mut Seen, (access, level): (Access, Level)) -> String {
    answer(cluster, seen, question(access, level))
}

fn answer(cluster: &Cluster, seen: &mut Seen, question: Question<'_>) -> String {
    match decide(&question, seen, &cluster.0, &POLICY) {
        Decision::Go(route) => format!("pg{}: {}", route.node.0 + 1, route.reason.label()),
        Decision::Wait { probe, .. } => {
            let asked = (0..3).filter(|id| probe.contains(NodeId(*id)));
            let names: Vec<_> = asked.map(|id| format!("pg{}", id + 1)).collect();
            format!("wait for {}", names.join(" "))
        }
        Decision::NoPrimary => "no primary".to_owned(),
        Decision::Broken(broken) => broken.to_string(),
    }
}

#[test]
fn a_session_that_has_seen_nothing() {
    let eventual = (Access::Read, Level::Eventual);
    let primary = (Access::Read, Level::Primary);
    let neutral = (Access::Neutral, Level::Session);
    let no_standby = || Cluster::even().down(1).down(2);
    for (cluster, asked, expected) in [
        (Cluster::even(), READ, "pg2: nothing_seen"),
        (Cluster::even().down(1), READ, "pg3: nothing_seen"),
        (no_standby(), READ, "pg1: no_standby"),
        (no_standby().down(0), READ, "no primary"),
        (Cluster::even().down(0), READ, "pg2: nothing_seen"),
        (Cluster::even(), WRITE, "pg1: write"),
        (Cluster::even().down(0), WRITE, "no primary"),
        (Cluster::even(), eventual, "pg2: eventual"),
        (no_standby(), eventual, "pg1: eventual"),
        (Cluster::even(), primary, "pg1: level_primary"),
        (Cluster::even(), neutral, "pg1: neutral"),
        (Cluster::even().down(0), neutral, "pg2: neutral"),
    ] {
        assert_eq!(ask(&cluster, &mut Seen::default(), asked), expected);
    }
    // A primary that is held is about to be stopped.
    for (mut cluster, expected) in [
        (Cluster::even(), "pg2: neutral"),
        (no_standby(), "pg1: neutral"),
    ] {
        cluster.0.writer = Writer::Nobody;
        assert_eq!(ask(&cluster, &mut Seen::default(), neutral), expected);
    }
}

#[test]
fn a_session_that_has_written() {
    let even = Cluster::even;
    for (cluster, probe, expected) in [
        // Probe 5 was sent after the write and found 500.
        (even(), 4, "pg2: caught_up"),
        (even().behind(1, 499), 4, "pg3: caught_up"),
        (even().behind(1, 499).down(2), 4, "pg1: standbys_behind"),
        // Nothing sent after the write has answered: its position is not known.
        (even(), 5, "wait for pg1 pg2 pg3"),
    ] {
        let mut seen = Cluster::even().session(0, probe);
        assert_eq!(ask(&cluster, &mut seen, READ), expected);
    }
    // Once its position is known, standbys serve it without the primary.
    let mut seen = even().session(0, 4);
    assert!(seen.upper(&even().0).is_some());
    assert_eq!(ask(&even().down(0), &mut seen, READ), "pg2: caught_up");
}

#[test]
fn a_standby_is_waited_for_as_long_as_it_may_arrive_in_time() {
    let close = || {
        let mut cluster = Cluster::even().behind(1, 499).down(2);
        // The primary was first seen at 500 only 5 ms before the standby was measured.
        let at_us = cluster.of(0).latest.at_us + 5 * MS;
        cluster.of(1).latest.at_us = at_us;
        cluster
    };
    let mut seen = close().session(0, 4);
    assert_eq!(ask(&close(), &mut seen, READ), "wait for pg2");
    let (access, level) = READ;
    let mut late = question(access, level);
    late.waited_us = 10 * MS;
    assert_eq!(answer(&close(), &mut seen, late), "pg1: standbys_behind");

    // What nobody flushes is not shipped either.
    let mut unflushed = close();
    let primary = unflushed.of(0);
    primary.latest.position.flush = Lsn(450);
    assert_eq!(ask(&unflushed, &mut seen, READ), "pg1: standbys_behind");
}

#[test]
fn a_session_that_has_read_on_a_standby() {
    let even = Cluster::even;
    let mut restarted = even();
    restarted.of(1).incarnation = Incarnation(9);
    let ended = restarted.0.nodes[1].life.as_ref().unwrap().gauge.clone();
    restarted.0.nodes[1].previous = Arc::from([(Incarnation(2), ended)]);
    for (cluster, probe, expected) in [
        (even(), 5, "pg2: same_standby"),
        // However far behind: the session has seen nothing newer.
        (even().behind(1, 400), 5, "pg2: same_standby"),
        (even().down(1), 5, "wait for pg1 pg3"),
        (restarted, 4, "pg2: caught_up"),
    ] {
        let mut seen = Cluster::even().session(1, probe);
        assert_eq!(ask(&cluster, &mut seen, READ), expected);
    }
    let mut excluded = question(Access::Read, Level::Session);
    excluded.exclude.insert(NodeId(1));
    let mut seen = Cluster::even().session(1, 4);
    assert_eq!(
        answer(&Cluster::even(), &mut seen, excluded),
        "pg3: caught_up"
    );
}

#[test]
fn a_move_from_a_standby_to_the_primary_needs_proof() {
    // The session read on pg2 as its counter stood at 5; transaction 14 may have been among it.
    let even = || Cluster::even().snapshot("14:15:14");
    for (cluster, expected) in [
        (even().finished(1, 5, 14, &[]), "wait for pg1 pg2"),
        (even().finished(1, 6, 15, &[]), "wait for pg1 pg2"),
        (even().finished(1, 6, 15, &[14]), "pg1: write"),
        (even().finished(1, 6, 14, &[]), "pg1: write"),
        (
            even().snapshot("16:16:").finished(1, 6, 15, &[]),
            "pg1: write",
        ),
    ] {
        let mut seen = Cluster::even().session(1, 5);
        assert_eq!(ask(&cluster, &mut seen, WRITE), expected);
    }
}

#[test]
fn patience_with_a_missing_proof_ends_and_is_told() {
    let cluster = Cluster::even().snapshot("14:15:14");
    let cluster = cluster.finished(1, 6, 15, &[]);
    let mut seen = Cluster::even().session(1, 5);
    let mut late = question(Access::Write, Level::Session);
    late.waited_us = 2000 * MS;
    match decide(&late, &mut seen, &cluster.0, &POLICY) {
        Decision::Go(route) => assert!(route.primary && route.unproven),
        other => panic!("{other:?}"),
    }
}

/// Under load the standby's latest answer and the primary's never fit; its first one does, once
/// the transactions of that time have ended.
#[test]
fn proof_is_held_against_one_testimony() {
    let mut seen = Cluster::even().session(1, 5);
    let rounds = [
        ("12:14:12,13", 6, 14, &[][..], "wait for pg1 pg2"),
        // 12 runs on for long, and the standby has been asked about it by now.
        ("12:19:12,18", 7, 20, &[12][..], "pg1: write"),
    ];
    for (snapshot, probe, xmax, running, expected) in rounds {
        let cluster = Cluster::even().snapshot(snapshot);
        let cluster = cluster.finished(1, probe, xmax, running);
        assert_eq!(ask(&cluster, &mut seen, WRITE), expected);
    }
}

#[test]
fn a_lost_standbys_session_needs_another_that_has_as_much() {
    let lost = || Cluster::even().down(1).snapshot("20:20:");
    let mut seen = Cluster::even().session(1, 5);
    assert_eq!(ask(&lost(), &mut seen, WRITE), "wait for pg1 pg3");
    // Whatever it showed, the primary had flushed by its next probe: that found 600.
    let mark = *seen.mark().unwrap();
    assert_eq!((mark.node, mark.probe), (NodeId(0), 5));
    assert_eq!(mark.origin, ShownBy::LostStandby);
    let later = |replayed| {
        let mut cluster = lost().behind(2, replayed).finished(2, 6, 20, &[]);
        let primary = cluster.of(0);
        primary.latest = measured(primary.gauge.next_probe(), 600, NOW);
        primary.gauge.record(primary.latest);
        cluster
    };
    assert_eq!(ask(&later(599), &mut seen, WRITE), "wait for pg1 pg3");
    assert_eq!(ask(&later(600), &mut seen, WRITE), "pg1: write");
}

#[test]
fn reads_are_spread_by_load_and_weight() {
    let cluster = Cluster::even();
    let place = |load: &[u32], salt| {
        let question = Question {
            load,
            salt,
            ..question(Access::Read, Level::Session)
        };
        answer(&cluster, &mut Seen::default(), question)
    };
    assert_eq!(place(&[0, 3, 2], 0), "pg3: nothing_seen");
    assert_eq!(place(&[0, 2, 3], 1), "pg2: nothing_seen");
    assert_ne!(place(&[0, 2, 2], 0), place(&[0, 2, 2], 1));
    let mut heavy = Cluster::even();
    heavy.0.nodes[1].weight = 3;
    let question = Question {
        load: &[0, 5, 2],
        ..question(Access::Read, Level::Session)
    };
    assert_eq!(
        answer(&heavy, &mut Seen::default(), question),
        "pg2: nothing_seen"
    );
}

#[test]
fn a_session_that_has_written_goes_home_unless_it_is_crowded() {
    for (load, expected) in [
        ([0, 0, 2], "pg3: caught_up"),
        ([0, 1, 4], "pg3: caught_up"),
        ([0, 1, 5], "pg2: caught_up"),
    ] {
        let mut seen = Cluster::even().session(2, 5);
        let gauge = Gauge::default();
        let at = LifeAt {
            incarnation: Incarnation(1),
            gauge: &gauge,
        };
        seen.ended_on_primary(NodeId(0), at, Cover::Flush);
        let question = Question {
            load: &load,
            ..question(Access::Read, Level::Session)
        };
        assert_eq!(answer(&Cluster::even(), &mut seen, question), expected);
    }
}

#[test]
fn a_primary_is_one_that_nobody_disputes() {
    let primary = |cluster: &Cluster| cluster.0.primary().map(|node| node.id.0);
    let mut cluster = Cluster::even();
    assert_eq!(primary(&cluster), Some(0));
    cluster.of(1).role = Role::Primary(Snapshot::default());
    assert_eq!(primary(&cluster), None, "a split brain");
    cluster.of(1).timeline = Timeline(2);
    assert_eq!(primary(&cluster), Some(1), "promoted");
    cluster.of(2).role = Role::Primary(Snapshot::default());
    cluster.of(2).timeline = Timeline(2);
    assert_eq!(
        primary(&cluster),
        None,
        "a split brain above an old primary"
    );
    assert_eq!(primary(&Cluster::even().down(0)), None);
}

/// pg2 was promoted and leaves timeline 1 at `fork`; pg1 is gone, pg3 follows.
fn promoted(fork: u64) -> Cluster {
    let mut cluster = Cluster::even();
    let before = cluster.0.nodes[0].life.take().unwrap();
    cluster.0.nodes[0].previous = Arc::from([(before.incarnation, before.gauge)]);
    cluster.life(1, 12, Role::Primary(Snapshot::default()));
    let fork = TimelineSwitch {
        timeline: Timeline(1),
        end: Lsn(fork),
    };
    let life = cluster.of(1);
    life.timeline = Timeline(2);
    life.latest.timeline = Timeline(2);
    life.history = Some(Arc::new(TimelineHistory(vec![fork])));
    let follower = cluster.of(2);
    follower.timeline = Timeline(2);
    follower.latest.timeline = Timeline(2);
    cluster
}

#[test]
fn a_promotion_keeps_or_breaks_what_a_session_has_seen() {
    let before = Cluster::even();
    // Written at 400 at the latest; the fork is behind that.
    let mut kept = before.session(0, 3);
    assert_eq!(ask(&promoted(400), &mut kept, READ), "pg3: caught_up");
    for asked in [READ, WRITE] {
        let mut lost = before.session(0, 3);
        let told = ask(&promoted(399), &mut lost, asked);
        assert_eq!(
            told,
            "this session has seen timeline 1 up to 0/190, but timeline 2 leaves it at 0/18F"
        );
        let again = ask(&promoted(399), &mut lost, asked);
        assert!(
            again.starts_with("pg2") || again.starts_with("wait"),
            "told once: {again}"
        );
    }
    // No probe has answered since: nobody knows.
    let mut unknown = before.session(0, 5);
    let told = ask(&promoted(10_000), &mut unknown, READ);
    assert_eq!(
        told,
        "timeline 2 leaves timeline 1, which this session has seen, at 0/2710"
    );
    let mut eventual = before.session(0, 5);
    let asked = (Access::Read, Level::Eventual);
    assert_eq!(ask(&promoted(1), &mut eventual, asked), "pg3: eventual");
    // What it read on the node that was promoted is there.
    let mut witness = before.session(1, 5);
    let mut cluster = promoted(10_000);
    let gauge = Arc::new(Gauge::default());
    cluster.0.nodes[1].previous = Arc::from([(Incarnation(2), gauge)]);
    assert_eq!(ask(&cluster, &mut witness, WRITE), "pg2: write");
    // A history that does not contain the old timeline is another cluster's.
    let mut foreign = promoted(400);
    foreign.of(1).history = Some(Arc::default());
    let told = ask(&foreign, &mut before.session(0, 3), READ);
    assert!(told.contains("not known to descend"), "{told}");
}

#[test]
fn nothing_that_a_quorum_has_is_broken() {
    let lossless = Policy {
        lossless: true,
        ..POLICY
    };
    let read = question(Access::Write, Level::Session);
    let mut unknown = Cluster::even().session(0, 5);
    let decision = decide(&read, &mut unknown, &promoted(10_000).0, &lossless);
    assert!(matches!(decision, Decision::Go(_)), "{decision:?}");
}

#[test]
fn the_controller_rules_who_may_be_written_to() {
    let primary = |cluster: &Cluster| cluster.0.primary().map(|node| node.id.0);
    let mut cluster = Cluster::even();
    cluster.0.writer = Writer::Nobody;
    assert_eq!(primary(&cluster), None);
    cluster.0.writer = Writer::Only(NodeId(0), Timeline(1));
    assert_eq!(primary(&cluster), Some(0));
    cluster.0.writer = Writer::Only(NodeId(1), Timeline(2));
    assert_eq!(primary(&cluster), None, "not promoted yet");
    cluster.0.writer = Writer::Only(NodeId(0), Timeline(1));
    cluster.0.nodes[0].barred = true;
    assert_eq!(primary(&cluster), None);
    cluster.0.nodes[1].barred = true;
    let read = ask(&cluster, &mut Seen::default(), READ);
    assert_eq!(read, "pg3: nothing_seen");
}

#[test]
fn lag_is_that_of_the_measurement() {
    let lag = |mut cluster: Cluster| {
        let life = cluster.of(1).clone();
        cluster.0.lag(&life, NOW)
    };
    assert_eq!(lag(Cluster::even()), Some(Lag::default()));
    // The primary was first seen beyond 350 at 400, 60 ms before the standby was measured.
    let behind = lag(Cluster::even().behind(1, 350)).unwrap();
    assert_eq!((behind.bytes, behind.us), (150, 60 * MS));
    // Measured 55 ms ago, it was 5 ms behind; how it is now nobody knows.
    let mut stale = Cluster::even().behind(1, 350);
    stale.of(1).latest.at_us = NOW - 55 * MS;
    assert_eq!(lag(stale).unwrap().us, 5 * MS);
    assert_eq!(lag(Cluster::even().behind(1, 350).down(0)), None);
}

#[test]
fn a_replication_connection_stays_with_the_primary_or_with_the_node_that_was_named() {
    let mut cluster = Cluster::even();
    let to_primary = Bond::new(None, &cluster.0).unwrap();
    let to_first = Bond::new(Some(NodeId(0)), &cluster.0).unwrap();
    let to_second = Bond::new(Some(NodeId(1)), &cluster.0).unwrap();
    assert_eq!(to_primary.node, NodeId(0));
    let held = |cluster: &Cluster| {
        [to_primary, to_first, to_second].map(|bond| bond.holds(&cluster.0, NOW))
    };
    assert_eq!(held(&cluster), [true; 3]);

    // A standby is promoted: the old primary may not have been stopped yet.
    cluster.life(1, 4, Role::Primary(Snapshot::default()));
    cluster.of(1).timeline = Timeline(2);
    assert_eq!(held(&cluster), [false, true, true]);
    cluster.0.writer = Writer::Only(NodeId(1), Timeline(2));
    cluster.0.nodes[0].barred = true;
    assert_eq!(held(&cluster), [false, false, true]);
    assert_eq!(Bond::new(None, &cluster.0).unwrap().node, NodeId(1));
    assert_eq!(Bond::new(Some(NodeId(0)), &cluster.0), None);

    // The primary was restarted; that it is not known for a moment says nothing.
    let mut cluster = Cluster::even();
    cluster.0.writer = Writer::Nobody;
    assert_eq!(held(&cluster), [true; 3]);
    assert_eq!(Bond::new(None, &cluster.0), None);
    cluster.life(0, 5, Role::Primary(Snapshot::default()));
    assert_eq!(held(&cluster), [false, true, true]);
    assert_eq!(held(&Cluster::even().down(1)), [true, true, false]);
}
