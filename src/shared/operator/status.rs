//! How failover stands, as the controller last said.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailoverStatus {
    /// The mode in force; empty without a failover section.
    pub mode: String,
    /// Nobody is promoted, by an operator's word.
    pub paused: bool,
    /// What is being done.
    pub phase: String,
    /// Rises with every decision about who leads.
    pub epoch: u64,
    /// The node that leads.
    pub primary: Option<String>,
    /// What an acknowledged write survives at present: `async`, `quorum`, or `quorum pending` while
    /// the primary may still acknowledge by another rule.
    pub durability: &'static str,
    /// Why nothing more is done at present.
    pub why: String,
    /// Whether this proxy decides.
    pub leads: bool,
    /// The proxy that decides, as far as this one knows.
    pub leader: Option<String>,
    /// By node: what would keep it from taking writes, should it be replaced as a primary.
    pub fences: Vec<(String, String)>,
    /// By whose promises the primary's lease goes on without a proxy, or why it does not.
    pub failsafe: String,
    /// Nodes whose agents stop them if they lead without a lease.
    pub governed: Vec<String>,
    /// Nodes that serve nothing, and why.
    pub quarantine: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub struct Status(ArcSwap<FailoverStatus>);

impl Status {
    pub fn set(&self, status: FailoverStatus) {
        if **self.0.load() != status {
            self.0.store(Arc::new(status));
        }
    }

    pub fn get(&self) -> Arc<FailoverStatus> {
        self.0.load_full()
    }
}
