//! Breadth first through every order of events, to a bound; a fault found is told as a trace.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};

use super::setup::Setup;
use super::state::{Action, State};

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// States visited, at most.
    pub(super) states: usize,
    /// Of how many states one is healed and must then serve again.
    pub(super) heal_every: usize,
}

/// What was explored.
#[derive(Debug, Default)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) deepest: usize,
    pub(super) healed: usize,
    /// States with a promotion behind them.
    pub(super) promoted: usize,
    /// There was nothing left to visit.
    pub(super) complete: bool,
}

/// Visits states until one is broken: Err with the way to it.
pub(super) fn explore(setup: &Setup, bounds: Bounds) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let mut parents: HashMap<u64, Option<(u64, Action)>> = HashMap::new();
    let mut frontier = VecDeque::new();
    let first = State::new(setup);
    parents.insert(fingerprint(&first), None);
    frontier.push_back((first, 0));
    while let Some((state, depth)) = frontier.pop_front() {
        explored.states += 1;
        explored.deepest = explored.deepest.max(depth);
        explored.promoted += usize::from(state.world.reigns > 0);
        let here = fingerprint(&state);
        if explored.states % bounds.heal_every == 0 {
            explored.healed += 1;
            if let Err(why) = state.heals(setup) {
                return Err(trace(setup, &parents, here, &why));
            }
        }
        for action in state.actions(setup) {
            let mut next = state.clone();
            next.act(setup, action);
            let there = fingerprint(&next);
            if parents.contains_key(&there) {
                continue;
            }
            if parents.len() >= bounds.states {
                return Ok(explored);
            }
            parents.insert(there, Some((here, action)));
            if let Some(why) = next.world.broken.clone() {
                return Err(trace(setup, &parents, there, &why));
            }
            frontier.push_back((next, depth + 1));
        }
    }
    explored.complete = true;
    Ok(explored)
}

/// Walks at random, deeper than a search can look; each walk ends with healing. A failure names
/// its seed and tells its way.
pub(super) fn wander(setup: &Setup, walks: u64, steps: usize) -> Result<Explored, String> {
    let mut explored = Explored::default();
    for seed in 0..walks {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut state = State::new(setup);
        let mut text = String::new();
        for _ in 0..steps {
            let (mishaps, usual): (Vec<Action>, Vec<Action>) = state
                .actions(setup)
                .into_iter()
                .partition(|action| State::is_mishap(*action));
            let action = match (dice.roll(8), mishaps.is_empty(), usual.is_empty()) {
                (0, false, _) | (_, false, true) => mishaps[dice.roll(mishaps.len())],
                (_, _, false) => usual[dice.roll(usual.len())],
                _ => break,
            };
            state.act(setup, action);
            explored.states += 1;
            text += &state.tell(action);
            if let Some(why) = &state.world.broken {
                return Err(format!("{why}\nseed {seed}\n{text}"));
            }
        }
        explored.promoted += usize::from(state.world.reigns > 0);
        explored.healed += 1;
        if let Err(why) = state.heals(setup) {
            return Err(format!("{why}\nseed {seed}\n{text}"));
        }
    }
    Ok(explored)
}

/// Numbers from a seed (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or_default() % sides
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Tells the way from the beginning, with what was planned.
fn trace(
    setup: &Setup,
    parents: &HashMap<u64, Option<(u64, Action)>>,
    end: u64,
    why: &str,
) -> String {
    let mut actions = Vec::new();
    let mut at = end;
    while let Some(Some((before, action))) = parents.get(&at) {
        actions.push(*action);
        at = *before;
    }
    actions.reverse();
    let mut state = State::new(setup);
    let mut text = format!("{why}\n");
    for action in actions {
        state.act(setup, action);
        text += &state.tell(action);
    }
    text
}
