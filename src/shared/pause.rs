//! PAUSE and RESUME: operators close it, sessions wait before they take a server connection.
//!
//! A pool opens no connection while it is closed, and looks under the lock under which connections are
//! counted: whoever closes it and then counts none can rely on it. A session that has waited for one
//! in a queue looks once more.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Open at first.
#[derive(Debug, Default)]
pub struct Pause {
    /// Closed for somebody: all that a session has to look at as a rule.
    closed: AtomicBool,
    held: Mutex<Paused>,
    opened: Notify,
}

/// For whom it is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    pub all: bool,
    /// For the clients of these databases.
    pub databases: BTreeSet<String>,
}

impl Paused {
    /// Whether the clients of a database wait.
    pub fn holds(&self, database: &str) -> bool {
        self.all || self.databases.contains(database)
    }

    fn holds_nobody(&self) -> bool {
        !self.all && self.databases.is_empty()
    }
}

impl Pause {
    /// Whether clients of a database may go on.
    pub fn is_open(&self, database: &str) -> bool {
        !self.closed.load(Ordering::Acquire) || !self.held.lock().holds(database)
    }

    /// Waits until clients of a database may go on.
    pub async fn opened(&self, database: &str) {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if self.is_open(database) {
                return;
            }
            opened.await;
        }
    }

    /// Whether what `close` did for a database, or for all, is still so.
    pub fn is_closed_by(&self, database: Option<&str>) -> bool {
        let held = self.held.lock();
        database.map_or(held.all, |name| held.databases.contains(name))
    }

    /// For whom it is closed.
    pub fn held(&self) -> Paused {
        self.held.lock().clone()
    }

    /// Closes it for a database, or for all. False if it was closed like that already.
    pub fn close(&self, database: Option<&str>) -> bool {
        let mut held = self.held.lock();
        let news = match database {
            Some(database) => held.databases.insert(database.to_owned()),
            None => !std::mem::replace(&mut held.all, true),
        };
        self.closed.store(true, Ordering::Release);
        news
    }

    /// Takes back what `close` did for a database; without one, all of it. False if there was nothing.
    pub fn open(&self, database: Option<&str>) -> bool {
        let mut held = self.held.lock();
        let news = match database {
            Some(database) => held.databases.remove(database),
            None => std::mem::take(&mut *held) != Paused::default(),
        };
        self.closed.store(!held.holds_nobody(), Ordering::Release);
        drop(held);
        self.opened.notify_waiters();
        news
    }

    /// Takes back a `close(None)` and leaves databases closed that were closed by name.
    pub fn open_all_only(&self) {
        let mut held = self.held.lock();
        held.all = false;
        self.closed.store(!held.holds_nobody(), Ordering::Release);
        drop(held);
        self.opened.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_closed_for_those_who_are_named() {
        let pause = Pause::default();
        assert!(pause.is_open("a") && !pause.open(Some("a")) && !pause.open(None));
        assert!(pause.close(Some("a")) && !pause.close(Some("a")));
        assert!(!pause.is_open("a") && pause.is_open("b"));
        assert!(pause.close(None) && !pause.close(None));
        assert!(!pause.is_open("b"));
        pause.open_all_only();
        assert!(!pause.is_open("a") && pause.is_open("b"));
        assert!(!pause.open(Some("b")) && pause.open(Some("a")));
        assert!(pause.is_open("a"));
        pause.close(Some("a"));
        pause.close(None);
        assert!(pause.open(None), "everything at once");
        assert!(pause.is_open("a") && pause.is_open("b"));
        assert_eq!(pause.held(), Paused::default());
    }
}
