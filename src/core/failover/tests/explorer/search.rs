//! Breadth first through every order of events, to a bound; a fault found is told as a trace.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::action::Action;
use super::setup::Setup;
use super::state::State;

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

/// From where each state was first reached, and how.
type Parents = HashMap<u64, Option<(u64, Action)>, BuildHasherDefault<Mixer>>;

/// Visits states until one is broken: Err with the way to it.
pub(super) fn explore(setup: &Setup, bounds: Bounds) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let mut parents = Parents::default();
    let mut frontier = VecDeque::new();
    let first = State::new(setup);
    let beginning = fingerprint(&first);
    parents.insert(beginning, None);
    frontier.push_back((first, beginning, 0));
    while let Some((state, here, depth)) = frontier.pop_front() {
        explored.states += 1;
        explored.deepest = explored.deepest.max(depth);
        explored.promoted += usize::from(state.world.reigns > 0);
        if explored.states % bounds.heal_every == 0 {
            explored.healed += 1;
            if let Err(why) = state.heals(setup) {
                return Err(format!("{why}\n{}", tell(setup, &way(&parents, here))));
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
                return Err(format!("{why}\n{}", tell(setup, &way(&parents, there))));
            }
            frontier.push_back((next, there, depth + 1));
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
        let mut taken = Vec::new();
        for _ in 0..steps {
            let (mishaps, usual): (Vec<Action>, Vec<Action>) = state
                .actions(setup)
                .into_iter()
                .partition(|action| action.is_mishap());
            let action = match (dice.roll(8), mishaps.is_empty(), usual.is_empty()) {
                (0, false, _) | (_, false, true) => mishaps[dice.roll(mishaps.len())],
                (_, _, false) => usual[dice.roll(usual.len())],
                _ => break,
            };
            state.act(setup, action);
            explored.states += 1;
            taken.push(action);
            if let Some(why) = &state.world.broken {
                return Err(format!("{why}\nseed {seed}\n{}", tell(setup, &taken)));
            }
        }
        explored.promoted += usize::from(state.world.reigns > 0);
        explored.healed += 1;
        if let Err(why) = state.heals(setup) {
            return Err(format!("{why}\nseed {seed}\n{}", tell(setup, &taken)));
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
    let mut hasher = Mixer::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Takes numbers as they come, with the finalizer of splitmix64 (Steele et al. 2014) for each: where nothing is
/// optimized, the standard library's own takes several times as long.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, number: u64) {
        let mut mixed = (self.0 ^ number).wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 = mixed ^ (mixed >> 31);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(u64::from(number));
    }

    fn write_u16(&mut self, number: u16) {
        self.mix(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }
}

/// The way from the beginning.
fn way(parents: &Parents, end: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut at = end;
    while let Some(Some((before, action))) = parents.get(&at) {
        actions.push(*action);
        at = *before;
    }
    actions.reverse();
    actions
}

/// Goes a way once more and tells it, with what was planned.
fn tell(setup: &Setup, way: &[Action]) -> String {
    let mut state = State::new(setup);
    let told = way.iter().map(|action| {
        state.act(setup, *action);
        state.tell(setup, *action)
    });
    told.collect()
}
