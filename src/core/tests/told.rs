//! What a session is told beside its answers, such as notifications: it has seen that, too.

use super::*;

/// Tells a session of a commit on a node as its counter stands at `probe`.
fn tell(seen: &mut Seen, id: u16, incarnation: u64, probe: u64) {
    let gauge = Gauge::default();
    for _ in 0..probe {
        gauge.record(measured(gauge.next_probe(), 0, 0));
    }
    let at = LifeAt {
        incarnation: Incarnation(incarnation),
        gauge: &gauge,
    };
    seen.told_by_primary(NodeId(id), at);
}

/// The primary has answered probe 6, and flushed and shows so much.
fn later(flush: u64, commits: u64) -> Cluster {
    let mut cluster = Cluster::even();
    let primary = cluster.of(0);
    primary.latest = measured(primary.gauge.next_probe(), 600, NOW);
    primary.latest.position = Position {
        flush: Lsn(flush),
        insert: Lsn(999),
        commits: Lsn(commits),
    };
    primary.gauge.record(primary.latest);
    cluster
}

#[test]
fn what_it_is_told_it_has_seen() {
    let before = || {
        [
            Seen::default(),
            Cluster::even().session(0, 4),
            Cluster::even().session(1, 4),
        ]
    };
    for mut seen in before() {
        tell(&mut seen, 0, 1, 5);
        // Not where it has read before, nor where a probe of before finds enough.
        assert_eq!(
            ask(&Cluster::even(), &mut seen, READ),
            "wait for pg1 pg2 pg3"
        );
        let behind = later(600, 600).behind(1, 599).behind(2, 600);
        assert_eq!(ask(&behind, &mut seen, READ), "pg3: caught_up");
    }
    // An asynchronous commit is on no standby.
    let mut seen = Seen::default();
    tell(&mut seen, 0, 1, 5);
    let behind = later(600, 601).behind(1, 600).behind(2, 600);
    assert_eq!(ask(&behind, &mut seen, READ), "wait for pg2 pg3");
}

#[test]
fn a_standby_that_it_has_read_on_is_not_forgotten() {
    // Transaction 14 may be among what was read on pg2; the primary has it flushed, and does not show it.
    let even = || Cluster::even().snapshot("14:15:14");
    let heard = || {
        let mut seen = Cluster::even().session(1, 5);
        tell(&mut seen, 0, 1, 5);
        seen
    };
    for (cluster, expected) in [
        (even().finished(1, 5, 14, &[]), "wait for pg1 pg2 pg3"),
        (even().finished(1, 6, 15, &[]), "wait for pg1 pg2 pg3"),
        (even().finished(1, 6, 14, &[]), "pg1: write"),
    ] {
        assert_eq!(ask(&cluster, &mut heard(), WRITE), expected);
    }
    let behind = later(600, 500).behind(1, 599).behind(2, 599);
    let behind = behind.snapshot("14:15:14").finished(1, 6, 14, &[]);
    assert_eq!(ask(&behind, &mut heard(), READ), "wait for pg2 pg3");
}

#[test]
fn what_comes_after_it_covers_it() {
    let mut seen = Seen::default();
    tell(&mut seen, 0, 1, 4);
    let gauge = Gauge::default();
    for _ in 0..5 {
        gauge.record(measured(gauge.next_probe(), 0, 0));
    }
    let at = LifeAt {
        incarnation: Incarnation(1),
        gauge: &gauge,
    };
    seen.ended_on_primary(NodeId(0), at, Cover::Flush);
    assert_eq!(ask(&later(600, 600), &mut seen, READ), "wait for pg2 pg3");
    let mark = *seen.mark().unwrap();
    assert_eq!((mark.probe, mark.cover), (5, Cover::Flush));
}

#[test]
fn what_it_may_have_written_is_judged_before() {
    // It has written up to 500 on timeline 1, which 2 left at 450.
    let mut seen = Cluster::even().session(0, 4);
    assert!(seen.upper(&Cluster::even().0).is_some());
    let mut promoted = Cluster::even();
    let history = TimelineHistory(vec![TimelineSwitch {
        timeline: Timeline(1),
        end: Lsn(450),
    }]);
    let life = promoted.of(0);
    life.timeline = Timeline(2);
    life.history = Some(Arc::new(history));
    tell(&mut seen, 0, 1, 5);
    assert!(ask(&promoted, &mut seen, READ).contains("leaves it at"));
}
