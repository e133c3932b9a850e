//! Who waits for what of the cluster: each measurement wakes those who wait for that node, and not the
//! thousands who wait for a primary.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::core::topology::{NodeId, NodeSet};

#[derive(Debug)]
pub(super) struct Signals {
    /// Who leads, or which nodes may be used, has changed.
    turned: Notify,
    /// A node has been measured; in configuration order.
    measured: Vec<Notify>,
}

impl Signals {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            turned: Notify::new(),
            measured: (0..nodes).map(|_| Notify::new()).collect(),
        }
    }

    pub(super) fn turned(&self) {
        self.turned.notify_waiters();
    }

    pub(super) fn measured(&self, node: NodeId) {
        if let Some(measured) = self.measured.get(usize::from(node.0)) {
            measured.notify_waiters();
        }
    }

    /// Resolves at what is said of these nodes, or of all, after this call.
    pub(super) fn of(&self, nodes: NodeSet) -> Signal<'_> {
        let measured = self.measured.iter().enumerate();
        let measured = measured.filter(|(index, _)| nodes.0 >> index & 1 == 1);
        let measured = measured.map(|(_, measured)| measured);
        let parts = std::iter::once(&self.turned).chain(measured);
        Signal(parts.map(|part| Box::pin(part.notified())).collect())
    }
}

/// Resolves once.
#[derive(Debug)]
#[must_use]
pub struct Signal<'a>(Vec<Pin<Box<Notified<'a>>>>);

impl Future for Signal<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut parts = self.0.iter_mut();
        match parts.any(|part| part.as_mut().poll(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_come(signal: Signal<'_>) -> bool {
        let mut signal = std::pin::pin!(signal);
        let mut context = Context::from_waker(std::task::Waker::noop());
        signal.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn a_measurement_wakes_nobody_who_waits_for_something_else() {
        let signals = Signals::new(2);
        let one = |node| {
            let mut nodes = NodeSet::default();
            nodes.insert(NodeId(node));
            nodes
        };
        let (leader, first, second) = (
            signals.of(NodeSet::default()),
            signals.of(one(0)),
            signals.of(one(1)),
        );
        // Also before anybody has begun to wait.
        signals.measured(NodeId(1));
        assert!(has_come(second) && !has_come(leader) && !has_come(first));
        let (leader, first) = (signals.of(NodeSet::default()), signals.of(one(0)));
        signals.turned();
        assert!(has_come(leader) && has_come(first));
        assert!(!has_come(signals.of(one(0))), "that was before");
    }
}
