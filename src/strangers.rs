//! Connections that have not said yet who they are: only so many at once, and when another comes the
//! oldest goes, of the address that has the most. So nobody keeps others out by being silent: whoever comes
//! from an address that has fewer waits for nobody.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Who is younger is not sent away yet for another of the same address: a crowd that logs in at once is no
/// attack, and waits in line.
const GRACE: Duration = Duration::from_secs(1);

/// Those who are there.
#[derive(Debug)]
pub struct Strangers {
    most: usize,
    grace: Duration,
    present: Mutex<Present>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Present {
    next: u64,
    /// Oldest first.
    all: VecDeque<Entered>,
}

#[derive(Debug)]
struct Entered {
    number: u64,
    from: IpAddr,
    at: Instant,
    leave: CancellationToken,
}

/// One of them; dropped when it is known, or has gone.
#[derive(Debug)]
pub struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    leave: CancellationToken,
}

impl Strangers {
    /// At most so many at once.
    pub fn new(most: usize) -> Arc<Self> {
        Self::with_grace(most, GRACE)
    }

    /// The same, where nobody is left alone for longer than `grace` once it is crowded; without one nobody
    /// waits either.
    pub fn with_grace(most: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            most,
            grace,
            present: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// How many are there.
    pub fn count(&self) -> usize {
        self.present.lock().all.len()
    }

    /// Lets one in, as soon as there is room for it: at once, or, in a crowd of its own address, within the
    /// grace.
    pub async fn admit(self: &Arc<Self>, from: IpAddr) -> Stranger {
        loop {
            match self.try_admit(from) {
                Ok(stranger) => return stranger,
                Err(wait) => {
                    let _ = tokio::time::timeout(wait, self.left.notified()).await;
                }
            }
        }
    }

    fn try_admit(self: &Arc<Self>, from: IpAddr) -> Result<Stranger, Duration> {
        let mut present = self.present.lock();
        if present.all.len() >= self.most
            && let Some((at, grace)) = present.who_goes(from, self.grace)
        {
            let stayed = present.all[at].at.elapsed();
            if stayed < grace {
                return Err(grace - stayed);
            }
            if let Some(gone) = present.all.remove(at) {
                gone.leave.cancel();
            }
        }
        let number = present.next;
        present.next += 1;
        let leave = CancellationToken::new();
        present.all.push_back(Entered {
            number,
            from,
            at: Instant::now(),
            leave: leave.clone(),
        });
        Ok(Stranger {
            strangers: Arc::clone(self),
            number,
            leave,
        })
    }
}

impl Present {
    /// The oldest of the address that has the most, and how long it is left alone: not at all where that is a
    /// crowd and the newcomer none of it.
    fn who_goes(&self, newcomer: IpAddr, grace: Duration) -> Option<(usize, Duration)> {
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        for entered in &self.all {
            *by_address.entry(entered.from).or_default() += 1;
        }
        let own = by_address.get(&newcomer).copied().unwrap_or_default();
        let most = by_address.values().copied().max()?;
        let crowded = |entered: &Entered| by_address.get(&entered.from) == Some(&most);
        let grace = match most > own + 1 {
            true => Duration::ZERO,
            false => grace,
        };
        Some((self.all.iter().position(crowded)?, grace))
    }
}

impl Stranger {
    /// Cancelled when it must go.
    pub fn turned_out(&self) -> &CancellationToken {
        &self.leave
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut present = self.strangers.present.lock();
        let number = self.number;
        // Numbers rise.
        if let Ok(at) = present.all.binary_search_by_key(&number, |e| e.number) {
            present.all.remove(at);
        }
        drop(present);
        self.strangers.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test]
    async fn the_oldest_of_the_greatest_crowd_goes() {
        let strangers = Strangers::with_grace(3, Duration::ZERO);
        let alone = strangers.admit(THERE).await;
        let first = strangers.admit(HERE).await;
        let second = strangers.admit(HERE).await;
        let third = strangers.admit(HERE).await;
        assert!(first.turned_out().is_cancelled());
        let stay = [&alone, &second, &third];
        assert!(!stay.iter().any(|one| one.leave.is_cancelled()));
        assert_eq!(strangers.count(), 3);
        // Who is known makes room.
        drop(second);
        let _fourth = strangers.admit(HERE).await;
        assert!(!third.leave.is_cancelled() && !alone.leave.is_cancelled());
        drop(first);
        assert_eq!(strangers.count(), 3);
    }

    #[tokio::test]
    async fn a_crowd_holds_up_nobody_else() {
        let strangers = Strangers::with_grace(2, Duration::from_secs(3_600));
        let first = strangers.admit(HERE).await;
        let second = strangers.admit(HERE).await;
        let bound = Duration::from_secs(20);
        let other = tokio::time::timeout(bound, strangers.admit(THERE)).await;
        assert!(first.turned_out().is_cancelled() && !second.leave.is_cancelled());
        // One each: nobody has more right than who is there.
        let third = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));
        assert!(strangers.try_admit(third).is_err());
        drop(other);
    }

    #[tokio::test]
    async fn a_crowd_waits_in_line() {
        let strangers = Strangers::with_grace(1, Duration::from_secs(3_600));
        let first = strangers.admit(HERE).await;
        let entered = AtomicBool::new(false);
        let second = async {
            let second = strangers.admit(HERE).await;
            entered.store(true, Ordering::SeqCst);
            second
        };
        let leave = async {
            tokio::task::yield_now().await;
            assert!(!entered.load(Ordering::SeqCst) && !first.leave.is_cancelled());
            drop(first);
        };
        let (second, ()) = tokio::join!(second, leave);
        assert!(!second.leave.is_cancelled());
    }
}
