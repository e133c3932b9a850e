//! Clients that work all the time, and what they were answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Proxy, eventually};

/// Between an answer and the next query: a client that thinks leaves the cores to other tests.
const PACE: Duration = Duration::from_millis(5);

/// Clients at work until this is ended.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// So many clients, each of which repeats these queries in turn.
    pub fn start(proxy: &Proxy, clients: usize, queries: &[&str]) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..clients).map(|_| {
            let mut wire = proxy.wire();
            // A pause lasts for as long as a test pleases.
            wire.patience(Duration::from_secs(300));
            let queries: Vec<String> = queries.iter().map(|query| (*query).to_owned()).collect();
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for query in queries.iter().cycle() {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = wire.ask(query);
                    if answer.contains("E[") || !answer.contains('Z') {
                        shared.failures.lock().push(format!("{query}: {answer}"));
                        return;
                    }
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
            })
        });
        let threads = threads.collect();
        let load = Self { shared, threads };
        load.goes_on(20);
        load
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers; fails at once when a query has failed.
    pub fn goes_on(&self, answers: u64) {
        let until = self.answered() + answers;
        eventually("the clients were answered", || {
            self.assert_unharmed();
            self.answered() >= until
        });
    }

    /// Ends the clients; fails if any query has failed. Returns the number of answers.
    pub fn end(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.assert_unharmed();
        self.answered()
    }

    fn assert_unharmed(&self) {
        let failures = self.shared.failures.lock();
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
