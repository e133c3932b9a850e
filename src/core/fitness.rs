//! Whether a standby may serve reads at all: it holds what the primary holds, of the same cluster and the same
//! history, and goes on replaying it.

use std::fmt;

use super::lsn::{Lsn, Timeline};
use super::topology::{Life, Topology};

/// A standby that replays nothing at all leaves service after this part of the bound on its lag.
const STILL: u64 = 5;

/// Why a standby serves no reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its system identifier is not the primary's.
    Foreign { own: i64, primary: i64 },
    /// It is on a timeline that is no part of the primary's history, or that is later than the primary's.
    OtherHistory { own: Timeline, primary: Timeline },
    /// It has gone beyond the point at which the primary's history left its timeline.
    Diverged {
        own: Timeline,
        primary: Timeline,
        fork: Lsn,
    },
    /// It replays nothing although there is something to replay.
    StandsStill,
    /// It is further behind than the bound.
    Late,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { own, primary } => write!(
                f,
                "it belongs to another cluster: its system identifier is {own}, the primary's {primary}"
            ),
            Self::OtherHistory { own, primary } => write!(
                f,
                "its timeline {own} is not known to be part of the history of the primary's timeline {primary}"
            ),
            Self::Diverged { own, primary, fork } => write!(
                f,
                "it has gone beyond {fork}, where the primary's timeline {primary} left its timeline {own}"
            ),
            Self::StandsStill => f.write_str("it replays nothing"),
            Self::Late => f.write_str("it is further behind the primary than routing.max_lag"),
        }
    }
}

/// Why a standby may serve no reads; none if it may.
pub fn unfit(topology: &Topology, standby: &Life, max_lag_us: u64, now_us: u64) -> Option<Unfit> {
    let history = of_another_history(topology, standby);
    history.or_else(|| behind(topology, standby, max_lag_us, now_us))
}

/// Without a primary the last one's history counts, as far as it was known; a timeline beyond it may be the
/// next one's.
fn of_another_history(topology: &Topology, standby: &Life) -> Option<Unfit> {
    let led = topology.primary().is_some();
    let reign = topology.reigns.first()?;
    if let (Some(own), Some(primary)) = (standby.system, reign.system)
        && own != primary
    {
        return Some(Unfit::Foreign { own, primary });
    }
    let (own, primary) = (standby.timeline, reign.timeline);
    if own == primary || own > primary && !led {
        return None;
    }
    let history = reign.history.as_ref().filter(|_| own < primary);
    let Some(fork) = history.and_then(|history| history.end_of(own)) else {
        return Some(Unfit::OtherHistory { own, primary });
    };
    // What it has received it will replay.
    let position = standby.latest.position;
    let beyond = position.insert.max(position.flush) > fork;
    beyond.then_some(Unfit::Diverged { own, primary, fork })
}

fn behind(topology: &Topology, standby: &Life, max_lag_us: u64, now_us: u64) -> Option<Unfit> {
    let lag = topology.lag(standby, now_us)?;
    let measured_us = standby.latest.at_us.min(now_us);
    let still_us = measured_us.saturating_sub(standby.gauge.moved_at_us());
    if lag.us > max_lag_us {
        Some(Unfit::Late)
    } else if lag.us.min(still_us) > max_lag_us / STILL {
        Some(Unfit::StandsStill)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::gauge::{Gauge, Measurement, Position};
    use crate::core::timeline::{TimelineHistory, TimelineSwitch};
    use crate::core::topology::{Incarnation, NodeId, NodeView, Role};
    use crate::core::visibility::{FinishedIds, Snapshot};

    const SECOND: u64 = 1_000_000;
    const BOUND: u64 = 10 * SECOND;

    /// A node that was found at these positions at these seconds.
    fn life(incarnation: u64, role: Role, timeline: u32, found: &[(u64, u64)]) -> Life {
        let gauge = Gauge::default();
        let mut latest = Measurement::default();
        for &(lsn, second) in found {
            latest = Measurement {
                probe: gauge.next_probe(),
                position: Position::replayed(Lsn(lsn)),
                timeline: Timeline(timeline),
                at_us: second * SECOND,
                asynchronous: false,
            };
            gauge.record(latest);
        }
        Life {
            incarnation: Incarnation(incarnation),
            role,
            timeline: Timeline(timeline),
            history: Some(Arc::default()),
            system: Some(7),
            latest,
            gauge: Arc::new(gauge),
        }
    }

    fn primary(incarnation: u64, timeline: u32, found: &[(u64, u64)]) -> Life {
        let mut life = life(
            incarnation,
            Role::Primary(Snapshot::default()),
            timeline,
            found,
        );
        let left = |(timeline, end)| TimelineSwitch {
            timeline: Timeline(timeline),
            end: Lsn(end),
        };
        if timeline > 1 {
            // Each timeline leaves the one before at its number times 1000.
            let switches = (1..timeline).map(|t| left((t, u64::from(t) * 1000)));
            life.history = Some(Arc::new(TimelineHistory(switches.collect())));
        }
        life
    }

    fn standby(timeline: u32, found: &[(u64, u64)]) -> Life {
        life(99, Role::Standby(FinishedIds::default()), timeline, found)
    }

    fn topology(lives: Vec<Option<Life>>) -> Topology {
        let nodes = lives.into_iter().enumerate().map(|(id, life)| NodeView {
            id: NodeId(id as u16),
            name: Arc::from("node"),
            weight: 1,
            near: true,
            life,
            silent: None,
            barred: false,
            suspended: false,
            drained: false,
            previous: Arc::default(),
        });
        let mut topology = Topology {
            nodes: nodes.collect(),
            ..Topology::default()
        };
        topology.remember_primary();
        topology
    }

    #[test]
    fn a_standby_serves_what_is_part_of_the_primarys_history() {
        let mut led = topology(vec![Some(primary(1, 3, &[(2500, 1)]))]);
        let fork = |own, end| Unfit::Diverged {
            own: Timeline(own),
            primary: Timeline(3),
            fork: Lsn(end),
        };
        let other = |own| Unfit::OtherHistory {
            own: Timeline(own),
            primary: Timeline(3),
        };
        let judged = |topology: &Topology, timeline, lsn| {
            let life = standby(timeline, &[(lsn, 1)]);
            of_another_history(topology, &life)
        };
        let without_primary = {
            let mut topology = led.clone();
            topology.nodes[0].life = None;
            topology
        };
        for (timeline, lsn, expected, unled) in [
            (3, 9000, None, None),
            (2, 2000, None, None),
            (2, 2001, Some(fork(2, 2000)), Some(fork(2, 2000))),
            (1, 1000, None, None),
            (1, 1500, Some(fork(1, 1000)), Some(fork(1, 1000))),
            // It may follow the next primary, which nobody has seen yet; not while this one leads.
            (4, 2600, Some(other(4)), None),
        ] {
            assert_eq!(judged(&led, timeline, lsn), expected, "{timeline} {lsn}");
            let without = judged(&without_primary, timeline, lsn);
            assert_eq!(without, unled, "{timeline} {lsn}");
        }
        // What it has received it will replay, and then it is beyond.
        let mut ahead = standby(2, &[(1900, 1)]);
        ahead.latest.position.insert = Lsn(2100);
        assert_eq!(of_another_history(&led, &ahead), Some(fork(2, 2000)));
        let mut foreign = standby(3, &[(2400, 1)]);
        foreign.system = Some(8);
        let (own, primary) = (8, 7);
        let expected = Some(Unfit::Foreign { own, primary });
        assert_eq!(of_another_history(&led, &foreign), expected);
        // A history that could not be read.
        if let Some(life) = &mut led.nodes[0].life {
            life.history = None;
        }
        led.reigns = Arc::default();
        led.remember_primary();
        assert_eq!(judged(&led, 2, 1), Some(other(2)));
        assert_eq!(judged(&led, 3, 1), None);
    }

    #[test]
    fn a_primary_of_another_cluster_is_none_of_this() {
        let mut foreign = primary(2, 9, &[(100, 1)]);
        foreign.system = Some(8);
        let own = primary(1, 1, &[(100, 1)]);
        let leads = |lives| topology(lives).primary().map(|node| node.id.0);
        let (own, foreign) = (Some(own), Some(foreign));
        let standby = Some(standby(1, &[(100, 1)]));
        let three = vec![own.clone(), foreign.clone(), standby.clone()];
        assert_eq!(leads(three), Some(0));
        let three = vec![foreign.clone(), standby, own.clone()];
        assert_eq!(leads(three), Some(2));
        assert_eq!(leads(vec![own, foreign]), None, "nobody can tell which");
    }

    #[test]
    fn a_standby_that_is_late_or_stands_still_serves_nothing() {
        let writes: Vec<_> = (1..=20).map(|second| (second * 100, second)).collect();
        let judged = |found: &[(u64, u64)]| {
            let topology = topology(vec![Some(primary(1, 1, &writes))]);
            let now_us = 20 * SECOND;
            unfit(&topology, &standby(1, found), BOUND, now_us)
        };
        assert_eq!(judged(&[(1, 1), (2000, 20)]), None);
        assert_eq!(
            judged(&[(1, 1), (1000, 19), (1100, 20)]),
            None,
            "8 s, moving"
        );
        assert_eq!(judged(&[(1, 1), (700, 19), (800, 20)]), Some(Unfit::Late));
        let still = judged(&[(1, 1), (1500, 16), (1500, 20)]);
        assert_eq!(still, Some(Unfit::StandsStill));
        let short = judged(&[(1, 1), (1500, 18), (1500, 20)]);
        assert_eq!(short, None, "for 2 s");
        // Nothing was to be replayed until a moment ago.
        assert_eq!(judged(&[(1900, 2), (1900, 20)]), None);
    }

    #[test]
    fn a_new_life_of_the_primary_does_not_make_a_standby_younger() {
        let behind = standby(1, &[(150, 30)]);
        let mut topology = topology(vec![Some(primary(1, 1, &[(100, 1), (200, 10)]))]);
        let lag = |topology: &Topology| topology.lag(&behind, 30 * SECOND).unwrap().us / SECOND;
        assert_eq!(lag(&topology), 20);
        let restart = |topology: &mut Topology, next: Life| {
            topology.nodes[0].end_life();
            topology.nodes[0].life = Some(next);
            topology.remember_primary();
        };
        restart(&mut topology, primary(2, 1, &[(200, 29)]));
        assert_eq!(lag(&topology), 20);
        // Promoted, it left timeline 1 at 1000, beyond the standby; and again.
        restart(&mut topology, primary(3, 2, &[(1200, 29)]));
        assert_eq!(lag(&topology), 20);
        // One that had replayed all of the former timeline lacks only what came since.
        let all = standby(1, &[(1000, 30)]);
        assert_eq!(topology.lag(&all, 30 * SECOND).unwrap().us, SECOND);
    }
}
