//! What a login finds on each node: control sees that it has changed there, pools renew their connections.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::topology::NodeId;

/// Changes kept while nobody takes them; more are one change of everything.
const MOST: usize = 1_000;

/// Whose new connections to a node find something else than those of before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub node: NodeId,
    /// Of this database, or of all.
    pub database: Option<Box<str>>,
    /// Of this role, or of all.
    pub role: Option<Box<str>>,
}

#[derive(Debug, Default)]
pub struct Logins {
    changed: Mutex<Vec<Changed>>,
    wake: Notify,
}

impl Logins {
    /// Something else is found from now on.
    pub fn tell(&self, changes: impl IntoIterator<Item = Changed>) {
        let mut changed = self.changed.lock();
        for change in changes {
            let everything = |known: &Changed| {
                known.node == change.node && known.database.is_none() && known.role.is_none()
            };
            if changed.contains(&change) || changed.iter().any(everything) {
                continue;
            }
            if changed.len() >= MOST {
                changed.retain(|known| known.node != change.node);
                changed.push(Changed {
                    database: None,
                    role: None,
                    ..change
                });
                continue;
            }
            changed.push(change);
        }
        drop(changed);
        self.wake.notify_one();
    }

    /// Waits for changes, and takes them.
    pub async fn changed(&self) -> Vec<Changed> {
        loop {
            let changed = std::mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(node: u16, role: Option<&str>) -> Changed {
        Changed {
            node: NodeId(node),
            database: None,
            role: role.map(Box::from),
        }
    }

    #[tokio::test]
    async fn changes_are_taken_once_and_do_not_pile_up() {
        let logins = Logins::default();
        logins.tell([change(0, Some("a")), change(0, Some("a"))]);
        assert_eq!(logins.changed().await, [change(0, Some("a"))]);
        let many = (0..2 * MOST).map(|n| change(1, Some(&n.to_string())));
        logins.tell(many.chain([change(2, Some("b"))]));
        let left = logins.changed().await;
        assert_eq!(left, [change(1, None), change(2, Some("b"))]);
    }
}
