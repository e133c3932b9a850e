//! The configuration in force, which a reload replaces as a whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::sections::Config;

/// The configuration in force. Whoever reads two keys that belong together loads it once.
#[derive(Debug)]
pub struct Live(ArcSwap<Config>);

impl Live {
    /// What the proxy starts with.
    pub fn new(config: Config) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// What is in force at this moment.
    pub fn load(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// The same, to be kept.
    pub fn current(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Another one is in force from now on.
    pub fn replace(&self, config: Arc<Config>) {
        self.0.store(config);
    }
}
