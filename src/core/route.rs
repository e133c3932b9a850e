//! Where a unit of work runs. This is the place: one pure function, `decide`.
//!
//! In: what the unit needs, what the session has seen, the topology, the policy, how long it has
//! waited. Out: a node with the reason, or what to wait for.

use super::fitness::unfit;
use super::session::{Broken, Level, Seen, Upper};
use super::statement::{Access, WriteReason};
use super::topology::{Incarnation, Life, NodeId, NodeSet, NodeView, Topology};

/// What the operator configured about routing.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Longest wait of a read for a standby to catch up, in microseconds.
    pub catchup_wait_us: u64,
    /// A standby further behind than this serves no reads, in microseconds.
    pub max_lag_us: u64,
    /// Longest wait for proof that the primary shows what a standby has shown, in microseconds.
    pub visibility_wait_us: u64,
    /// A promotion loses nothing that was acknowledged and flushed (`durability: quorum`).
    pub lossless: bool,
}

/// One request to route a unit.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What the unit needs.
    pub access: Access,
    /// Why it is a write, if it is one.
    pub write_reason: Option<WriteReason>,
    /// The level in force for it.
    pub level: Level,
    /// Nodes that have just failed this very unit.
    pub exclude: NodeSet,
    /// How long it has waited already, in microseconds.
    pub waited_us: u64,
    /// The caller's clock, in microseconds.
    pub now_us: u64,
    /// Transactions in flight on each node, by its place.
    pub load: &'a [u32],
    /// Breaks ties between equally loaded standbys.
    pub salt: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run it there.
    Go(Route),
    /// Nothing fits yet: probe these nodes and ask again when one of them has answered, or when
    /// the time is up.
    Wait {
        /// Nodes whose next measurement can change the answer.
        probe: NodeSet,
        /// Time left, in microseconds.
        left_us: u64,
    },
    /// There is no primary at present.
    NoPrimary,
    /// A promotion may have lost what the session has seen: it must be told. Asked again, it goes on
    /// from the present history.
    Broken(Broken),
}

/// A decision to run a unit on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// It is the primary.
    pub primary: bool,
    /// Why there.
    pub reason: Reason,
    /// A standby stood ready and was passed over because it lacked what the session has seen.
    pub stale_prevented: bool,
    /// It goes to the primary although no proof came in time that it shows what was seen.
    pub unproven: bool,
    /// How long it waited for this, in microseconds.
    pub waited_us: u64,
}

/// Why a unit runs where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is a write.
    Write(WriteReason),
    /// It touches no data.
    Neutral,
    /// The level is `primary`.
    LevelPrimary,
    /// The level is `eventual`.
    Eventual,
    /// The session has seen nothing yet, so any standby will do.
    NothingSeen,
    /// The standby that served the session last: always safe.
    SameStandby,
    /// A standby measured to have everything that the session has seen.
    CaughtUp,
    /// No standby is fit to serve reads.
    NoStandby,
    /// No standby was expected to catch up, or did, within `catchup_wait`.
    StandbysBehind,
    /// All connections to the standbys that would do have been in use for long.
    StandbysFull,
    /// The transaction, or the session, keeps its server connection.
    Held,
}

impl Reason {
    /// A bounded label for metrics.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Its label's place in `LABELS`, so that what is counted by reason can be an array.
    pub fn index(self) -> usize {
        match self {
            Self::Write(WriteReason::RefusedByStandby) => 1,
            Self::Write(_) => 0,
            Self::Neutral => 2,
            Self::LevelPrimary => 3,
            Self::Eventual => 4,
            Self::NothingSeen => 5,
            Self::SameStandby => 6,
            Self::CaughtUp => 7,
            Self::NoStandby => 8,
            Self::StandbysBehind => 9,
            Self::Held => 10,
            Self::StandbysFull => 11,
        }
    }

    pub const LABELS: [&'static str; 12] = [
        "write",
        "refused_by_standby",
        "neutral",
        "level_primary",
        "eventual",
        "nothing_seen",
        "same_standby",
        "caught_up",
        "no_standby",
        "standbys_behind",
        "held",
        "standbys_full",
    ];
}

/// Why a unit is run a second time, on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Replay {
    /// The standby refused to write.
    ReadOnly,
    /// The standby cannot do it, in this session or at present: another one, or another time, may.
    Refused,
    /// It speaks of what the standby has not replayed yet.
    NotReplayed,
    /// The standby cancelled it in favour of replay.
    RecoveryConflict,
    /// The server connection, or the node, was lost.
    NodeLost,
}

impl Replay {
    /// Whether a standby's error is one that another node would not give (manual, "Hot Standby").
    pub fn after(sqlstate: &[u8]) -> Option<Self> {
        match sqlstate {
            // Nothing is serializable on a standby, so that this is always a recovery conflict.
            b"40001" | b"40P01" => Some(Self::RecoveryConflict),
            b"57P01" | b"57P02" | b"57P03" | b"57P05" => Some(Self::NodeLost),
            b"25006" => Some(Self::ReadOnly),
            // Feature not supported, or object in wrong state, during recovery.
            b"0A000" | b"55000" => Some(Self::Refused),
            // No such table, column, function, type or schema: a migration may be on its way.
            b"42P01" | b"42703" | b"42883" | b"42704" | b"3F000" => Some(Self::NotReplayed),
            _ => None,
        }
    }
}

/// Decides where a unit runs.
pub fn decide(
    question: &Question<'_>,
    seen: &mut Seen,
    topology: &Topology,
    policy: &Policy,
) -> Decision {
    let eventual = question.access == Access::Read && question.level == Level::Eventual;
    if question.access != Access::Neutral
        && !eventual
        && let Err(broken) = seen.follow(topology, policy.lossless)
    {
        return Decision::Broken(broken);
    }
    match (question.access, question.level) {
        (Access::Neutral, _) => neutral(question, topology),
        (Access::Write, _) => {
            let reason = question.write_reason.unwrap_or(WriteReason::Command);
            to_primary(
                question,
                seen,
                topology,
                policy,
                Reason::Write(reason),
                false,
            )
        }
        (Access::Read, Level::Primary) => to_primary(
            question,
            seen,
            topology,
            policy,
            Reason::LevelPrimary,
            false,
        ),
        (Access::Read, Level::Eventual) => {
            let found = lightest(standbys(question, topology, policy), question);
            match found.or_else(|| topology.primary()) {
                Some(node) => go(question, node, Reason::Eventual, false),
                None => Decision::NoPrimary,
            }
        }
        (Access::Read, Level::Session) => session_read(question, seen, topology, policy),
    }
}

/// The primary's view is what a client expects of `SHOW`; any node is better than an error. While nobody leads,
/// a server that did is about to be stopped.
fn neutral(question: &Question<'_>, topology: &Topology) -> Decision {
    let any = || {
        topology
            .nodes
            .iter()
            .filter(|n| n.usable().is_some() && !n.drained && !question.exclude.contains(n.id))
            .min_by_key(|n| n.as_primary().is_some())
    };
    match topology.primary().or_else(any) {
        Some(node) => go(question, node, Reason::Neutral, false),
        None => Decision::NoPrimary,
    }
}

fn session_read(
    question: &Question<'_>,
    seen: &mut Seen,
    topology: &Topology,
    policy: &Policy,
) -> Decision {
    let fit = || standbys(question, topology, policy);
    if fit().next().is_none() {
        return to_primary(question, seen, topology, policy, Reason::NoStandby, false);
    }
    let Some(mark) = seen.mark().copied() else {
        return match lightest(fit(), question) {
            Some(node) => go(question, node, Reason::NothingSeen, false),
            None => Decision::NoPrimary,
        };
    };
    let same = fit().find(|node| node.id == mark.node && is_life(node, mark.incarnation));
    if let Some(node) = same {
        return go(question, node, Reason::SameStandby, false);
    }
    if seen.is_stranded(topology)
        && let Some((node, (life, _))) = topology.primary().and_then(|n| Some((n, n.as_primary()?)))
    {
        seen.rebase(node.id, life);
    }

    let left_us = policy.catchup_wait_us.saturating_sub(question.waited_us);
    let Some(upper) = seen.upper(topology) else {
        // The next probe of the mark's node will tell; it is on its way within a millisecond.
        let asked = seen.mark().map_or(mark.node, |mark| mark.node);
        let reachable = topology.node(asked).is_some_and(|node| node.life.is_some());
        if left_us == 0 || !reachable {
            return to_primary(
                question,
                seen,
                topology,
                policy,
                Reason::StandbysBehind,
                true,
            );
        }
        let mut probe = NodeSet::default();
        probe.insert(asked);
        fit().for_each(|node| probe.insert(node.id));
        return Decision::Wait { probe, left_us };
    };
    let caught_up = fit().filter(|node| has(node, upper));
    if let Some(lightest) = lightest(caught_up.clone(), question) {
        // Its caches are warm there; but a standby that returns must get its share again.
        let bearable = 2 * load_of(lightest, question) + CROWD;
        let home = seen
            .home()
            .and_then(|home| caught_up.clone().find(|node| node.id == home))
            .filter(|home| load_of(home, question) <= bearable);
        let node = home.unwrap_or(lightest);
        return go(question, node, Reason::CaughtUp, false);
    }

    let mut probe = NodeSet::default();
    for node in fit().filter(|node| catches_up_within(node, upper, topology, question, left_us)) {
        probe.insert(node.id);
    }
    if left_us == 0 || probe == NodeSet::default() {
        return to_primary(
            question,
            seen,
            topology,
            policy,
            Reason::StandbysBehind,
            true,
        );
    }
    Decision::Wait { probe, left_us }
}

/// To the primary, once it is known to show what the session has seen on standbys.
fn to_primary(
    question: &Question<'_>,
    seen: &mut Seen,
    topology: &Topology,
    policy: &Policy,
    reason: Reason,
    stale_prevented: bool,
) -> Decision {
    let Some(primary) = topology.primary() else {
        return Decision::NoPrimary;
    };
    if question.level == Level::Eventual && question.access == Access::Read {
        return go(question, primary, reason, stale_prevented);
    }
    if seen.is_stranded(topology)
        && let Some((life, _)) = primary.as_primary()
    {
        seen.rebase(primary.id, life);
    }
    if seen.shown_by_primary(topology) {
        return go(question, primary, reason, stale_prevented);
    }
    // A wait for a standby that ended here must not eat up the time for the proof.
    let budget_us = policy.visibility_wait_us + policy.catchup_wait_us;
    let left_us = budget_us.saturating_sub(question.waited_us);
    if left_us == 0 {
        return match go(question, primary, reason, stale_prevented) {
            Decision::Go(route) => Decision::Go(Route {
                unproven: true,
                ..route
            }),
            other => other,
        };
    }
    let mut probe = NodeSet::default();
    probe.insert(primary.id);
    match seen.mark() {
        Some(mark) if mark.node != primary.id => probe.insert(mark.node),
        _ => topology
            .nodes
            .iter()
            .filter(|node| node.as_standby().is_some())
            .for_each(|node| probe.insert(node.id)),
    }
    Decision::Wait { probe, left_us }
}

/// Standbys that may serve reads at all.
fn standbys<'a>(
    question: &'a Question<'_>,
    topology: &'a Topology,
    policy: &'a Policy,
) -> impl Iterator<Item = &'a NodeView> + Clone {
    topology.nodes.iter().filter(move |node| {
        let Some((life, _)) = node.as_standby() else {
            return false;
        };
        let taken = node.weight > 0 && !node.drained && !question.exclude.contains(node.id);
        taken && unfit(topology, life, policy.max_lag_us, question.now_us).is_none()
    })
}

/// The standby with the least load for its weight, one of the own zone if there is one.
fn lightest<'a>(
    nodes: impl Iterator<Item = &'a NodeView> + Clone,
    question: &Question<'_>,
) -> Option<&'a NodeView> {
    let near = nodes.clone().any(|node| node.near);
    let count = nodes.clone().count() as u64;
    nodes
        .enumerate()
        .filter(|(_, node)| node.near || !near)
        .min_by_key(|(index, node)| {
            let turn = (*index as u64 + question.salt) % count.max(1);
            (load_of(node, question), turn)
        })
        .map(|(_, node)| node)
}

/// Transactions in flight on a node, in thousandths for each unit of its weight.
fn load_of(node: &NodeView, question: &Question<'_>) -> u64 {
    let load = question.load.get(usize::from(node.id.0)).copied();
    u64::from(load.unwrap_or(0)) * 1000 / u64::from(node.weight.max(1))
}

/// A session stays with its standby while that has no more than twice another's load and this.
const CROWD: u64 = 2000;

fn has(node: &NodeView, upper: Upper) -> bool {
    node.as_standby().is_some_and(|(life, _)| {
        life.timeline == upper.timeline && life.latest.position.flush >= upper.lsn
    })
}

/// Whether a standby's measured lag gives hope that it arrives in time.
fn catches_up_within(
    node: &NodeView,
    upper: Upper,
    topology: &Topology,
    question: &Question<'_>,
    left_us: u64,
) -> bool {
    let Some((life, _)) = node.as_standby() else {
        return false;
    };
    let lag = topology.lag(life, question.now_us).unwrap_or_default();
    let shipped = topology
        .primary()
        .and_then(NodeView::as_primary)
        .is_none_or(|(primary, _)| {
            // Only what is flushed is sent. The end of somebody's open transaction can stay
            // unflushed for seconds, and then nothing is gained by waiting for it.
            primary.latest.position.flush >= upper.lsn
                || primary.gauge.generated_for(upper.lsn, question.now_us) <= left_us
        });
    life.timeline == upper.timeline && lag.us <= left_us && shipped
}

fn is_life(node: &NodeView, incarnation: Incarnation) -> bool {
    matches!(&node.life, Some(Life { incarnation: present, .. }) if *present == incarnation)
}

fn go(question: &Question<'_>, node: &NodeView, reason: Reason, stale_prevented: bool) -> Decision {
    let Some(life) = node.usable() else {
        return Decision::NoPrimary;
    };
    Decision::Go(Route {
        node: node.id,
        incarnation: life.incarnation,
        primary: node.as_primary().is_some(),
        reason,
        stale_prevented,
        unproven: false,
        waited_us: question.waited_us,
    })
}
