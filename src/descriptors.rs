//! File descriptors: as many as the system allows, and some that only the proxy's own supervision gets.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// So many are kept for leases, probes, the store and orders; fewer where there are few.
const RESERVE: usize = 128;

/// How many descriptors this process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors(usize);

/// How they are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Clients that have logged in.
    pub(crate) clients: usize,
    /// Connections that have not.
    pub(crate) strangers: usize,
}

impl Descriptors {
    /// Raises the limit to what the system allows.
    pub(crate) fn raised() -> Self {
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < hard
            && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        {
            tracing::warn!(%error, soft, hard, "cannot raise the limit of open files");
        }
        Self::present()
    }

    /// As the limit is.
    pub(crate) fn present() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft);
        let limit = limit.ok().and_then(|soft| usize::try_from(soft).ok());
        Self(limit.unwrap_or(usize::MAX))
    }

    /// The limit.
    pub(crate) fn limit(self) -> usize {
        self.0
    }

    fn reserve(self) -> usize {
        RESERVE.min(self.0 / 4)
    }

    /// Whether a descriptor that was just given is one of the reserve: the lowest free number is given, so
    /// that all below it are in use.
    pub(crate) fn is_of_reserve(self, given: &impl AsFd) -> bool {
        let number = usize::try_from(given.as_fd().as_raw_fd()).unwrap_or_default();
        number >= self.0 - self.reserve()
    }

    /// Shares them out among `clients` and the connections to servers. None: there are too few.
    pub(crate) fn share(self, clients: usize, servers: usize) -> Option<Shares> {
        let strangers = (clients / 8).clamp(64, 512).min(self.0 / 8);
        let others = self.reserve().saturating_add(servers) + strangers;
        let room = self.0.saturating_sub(others);
        (room > 0 && strangers > 0).then(|| Shares {
            clients: clients.min(room),
            strangers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_down_to_what_does() {
        let shares = |limit, clients, servers| Descriptors(limit).share(clients, servers);
        let most = |clients, strangers| Some(Shares { clients, strangers });
        assert_eq!(shares(1_048_576, 10_000, 60), most(10_000, 512));
        assert_eq!(shares(1024, 10_000, 60), most(1024 - 128 - 60 - 128, 128));
        assert_eq!(shares(400, 10_000, 60), most(400 - 100 - 60 - 50, 50));
        assert_eq!(shares(400, 100, 60), most(100, 50));
        assert_eq!(shares(64, 10_000, 60), None);
        assert_eq!(shares(usize::MAX, 10_000, 60), most(10_000, 512));
    }

    #[test]
    fn a_low_number_is_no_sign_of_scarcity() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!Descriptors(1 << 20).is_of_reserve(&file));
        assert!(Descriptors(4).is_of_reserve(&file));
    }
}
