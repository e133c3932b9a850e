//! For whom server processes speak: the process id that the client knows which last ran, on a server
//! connection, something that may notify. Notifications bear the server process's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::topology::NodeId;

/// A server process: its node and its process id there.
type Process = (NodeId, i32);

/// All server connections that have spoken for a client.
#[derive(Debug, Default)]
pub struct Senders(Mutex<HashMap<Process, i32>>);

/// A server connection's entry, struck out with the connection.
#[derive(Debug)]
pub(super) struct Sender {
    senders: Arc<Senders>,
    process: Process,
}

impl Senders {
    /// The process id of the client for which a server process has spoken last.
    pub fn client(&self, node: NodeId, process: i32) -> Option<i32> {
        self.0.lock().get(&(node, process)).copied()
    }

    /// From now on the server process speaks for this client.
    pub(super) fn speaks(self: &Arc<Self>, node: NodeId, process: i32, client: i32) -> Sender {
        self.0.lock().insert((node, process), client);
        Sender {
            senders: Arc::clone(self),
            process: (node, process),
        }
    }
}

impl Sender {
    /// It speaks for another client now.
    pub(super) fn set(&self, client: i32) {
        self.senders.0.lock().insert(self.process, client);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.senders.0.lock().remove(&self.process);
    }
}
