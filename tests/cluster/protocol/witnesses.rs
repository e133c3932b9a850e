//! Sessions to which nothing happens, whatever becomes of others: what they have set, prepared and are told
//! stays their own.

use super::program::Program;
use crate::support::Wire;
use crate::support::frames::{parse, run, sync};

pub(super) struct Witnesses(Vec<Wire>);

impl Witnesses {
    /// Each has a marker of its own in a custom setting, in `search_path` and in a prepared statement of a
    /// name that all of them use.
    pub(super) fn new(program: &Program, count: usize) -> Self {
        let witness = |number: usize| {
            let mut wire = program.wire();
            wire.run(&format!("SET app.marker = 'witness {number}'"));
            wire.run(&format!("SET search_path = witness_{number}"));
            let answer =
                wire.exchange(&[parse("mine", &format!("SELECT {number}, $1::text")), sync()]);
            assert_eq!(answer, "1 Z[I]");
            wire
        };
        Self((0..count).map(witness).collect())
    }

    /// All of them find their own.
    pub(super) fn check(&mut self) {
        for (number, wire) in self.0.iter_mut().enumerate() {
            let own = "SELECT current_setting('app.marker'), current_setting('search_path')";
            assert_eq!(
                wire.ask(own),
                format!("D[witness {number},witness_{number}] C[SELECT 1] Z[I]")
            );
            assert_eq!(
                wire.exchange(&[run("mine", &["yes"]), sync()]),
                format!("2 D[{number},yes] C[SELECT 1] Z[I]")
            );
        }
    }
}
