//! Other sessions, which keep the server connections changing hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::cluster;
use crate::support::Proxy;
use crate::support::frames::{parse, query, run, sync};

/// A proxy with few server connections and many sessions that use them.
pub(crate) struct Busy {
    stop: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<()>>,
    /// Last, so that the sessions have ended before it does.
    pub(crate) proxy: Proxy,
}

impl Busy {
    /// Three connections for each node, shared with six other sessions.
    pub(crate) fn start() -> Self {
        Self::with("pool: { size: 3, wait_timeout: 20s }\n")
    }

    /// The same with another configuration.
    pub(crate) fn with(yaml: &str) -> Self {
        let proxy = Proxy::start(cluster(), yaml);
        let stop = Arc::new(AtomicBool::new(false));
        let sessions = (0..6).map(|number| {
            let (stop, mut wire) = (Arc::clone(&stop), proxy.wire());
            std::thread::spawn(move || {
                wire.run(&format!(
                    "SET application_name = 'other {number}'; SET search_path = other{number}"
                ));
                let text = format!("SELECT {number} + $1::int");
                wire.exchange(&[parse("s", &text), sync()]);
                while !stop.load(Ordering::Relaxed) {
                    let answer = wire.exchange(&[run("s", &["1"]), sync()]);
                    assert_eq!(answer, format!("2 D[{}] C[SELECT 1] Z[I]", number + 1));
                    // Alternately on the primary and on a standby.
                    wire.exchange(&[query("BEGIN; SELECT txid_current(); COMMIT")]);
                    assert_eq!(wire.value("SHOW search_path"), format!("other{number}"));
                    std::thread::yield_now();
                }
            })
        });
        Self {
            sessions: sessions.collect(),
            stop,
            proxy,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for session in self.sessions.drain(..) {
            let ended = session.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "another session failed"
            );
        }
    }
}
