//! What operators and their tools read: dashboard, console, metrics, health, status. It reads snapshots, and
//! passes requests on.

mod command;
mod console;
mod events;
mod gauges;
pub mod http;
mod orders;
mod page;
mod point;
mod requests;
mod sampler;
mod sources;
mod status;
mod upkeep;

use std::ops::Deref;
use std::sync::Arc;

use sampler::Sampler;
pub use sources::Sources;

/// The sources, with what all viewers of the dashboard are shown.
#[derive(Clone, Debug)]
pub struct State {
    sources: Arc<Sources>,
    sampler: Arc<Sampler>,
}

impl State {
    /// Reads from these, and passes requests on.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources: Arc::new(sources),
            sampler: Arc::default(),
        }
    }
}

impl Deref for State {
    type Target = Sources;

    fn deref(&self) -> &Sources {
        &self.sources
    }
}
