//! The faults, and the words by which each is told apart: in `/api/status`, which is all that the dashboard
//! knows, and in the log. `{p}` is the primary at the time, `{s}` the standby that is concerned.

/// One fault.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) fault: &'static str,
    /// How the test makes it.
    pub(crate) made: &'static str,
    /// All of these are in the status, as `lines` of main.rs has it.
    pub(crate) status: &'static [&'static str],
    /// All of these are in the log.
    pub(crate) log: &'static [&'static str],
    /// None of these is in either.
    pub(crate) never: &'static [&'static str],
    /// How it is told from those that resemble it.
    pub(crate) apart: &'static str,
    pub(crate) help: &'static str,
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "killed",
        fault: "The primary's postmaster is killed",
        made: "`kill -9` of the postmaster",
        status: &[
            "primary_failed: {p} is being replaced: its server is not running",
            "fenced: {p} takes no more writes: its agent found the server stopped",
            "promoted: ",
        ],
        log: &[
            "{p} is being replaced: its server is not running event=\"primary_failed\"",
            "event=\"promoted\"",
        ],
        never: &[],
        apart: "*Its server is not running*: the machine and its agent answer, the server does not exist.",
        help: "Nothing: another leads, and it comes back as a standby. Its own log says why it died.",
    },
    Row {
        id: "frozen",
        fault: "The primary hangs",
        made: "SIGSTOP to the postmaster and all its children",
        status: &[
            "primary_failed: {p} is being replaced: neither the proxy nor most standbys hear of it",
            "fenced: {p} takes no more writes: its agent found the server stopped",
        ],
        log: &[
            "{p} is being replaced: neither the proxy nor most standbys hear of it",
            "{p} takes no more writes: its agent found the server stopped",
        ],
        never: &[],
        apart: "Silence, as with a cut cable; but *its agent found the server stopped* (it does so itself), so the machine can be reached.",
        help: "Nothing. Look for what held it up: storage, memory, a stopped virtual machine.",
    },
    Row {
        id: "cut off",
        fault: "The primary is cut off from the network, with its agent",
        made: "nothing arrives any more between its network namespace and the others",
        status: &[
            "primary_failed: {p} is being replaced: neither the proxy nor most standbys hear of it",
            "fenced: {p} takes no more writes: its lease has run out",
            "{p} (agent): the agent at https://",
            "did not answer within",
        ],
        log: &[
            "{p} is being replaced: neither the proxy nor most standbys hear of it",
            "{p} takes no more writes: its lease has run out",
            "agent does not answer node=\"{p}\"",
        ],
        never: &[],
        apart: "Nobody could ask its agent, so *its lease has run out* is what fenced it (or, under `quorum`, that too few standbys are attached).",
        help: "The network. Once it is back, the node is rewound by itself.",
    },
    Row {
        id: "standby lost",
        fault: "A standby's machine is gone",
        made: "`kill -9` of a standby's server and of its agent",
        status: &["{s} is down", "{s} (down): ", "refused", "{s} (agent): "],
        log: &[
            "node is not available node=\"{s}\"",
            "refused",
            "agent does not answer node=\"{s}\"",
        ],
        never: &["primary_failed", "password authentication"],
        apart: "Server and agent are both gone. Where the server alone is gone, `{s} (agent)` is not there; it is started again after `timeout`.",
        help: "Start the machine, or [replace the standby](operating.md). Under `quorum` nobody waits for it any more.",
    },
    Row {
        id: "agent dead",
        fault: "An agent is dead, its server lives",
        made: "`kill -9` of a standby's agent",
        status: &[
            "{s} is up",
            "{s} (agent): the agent at https://",
            "cannot be reached",
        ],
        log: &["agent does not answer node=\"{s}\"", "cannot be reached"],
        never: &[
            "{s} is down",
            "node is not available node=\"{s}\"",
            "primary_failed",
        ],
        apart: "The node is up and serves; only its agent is named.",
        help: "Start the agent (`Restart=always` in its unit does). Until then nobody can stop, start or rewind that server: as a primary it is fenced by quorum or `fence_command` only.",
    },
    Row {
        id: "replay paused",
        fault: "A standby's replay stands still",
        made: "`pg_wal_replay_pause()` on a standby, and writes",
        status: &["{s} is up", "{s} (replay): has its replay paused"],
        log: &["standby has its replay paused", "node=\"{s}\""],
        never: &["receives no WAL"],
        apart: "Its lag grows as with a receiver that is cut off, and it serves fewer reads or none; what it says of itself is told.",
        help: "`SELECT pg_wal_replay_resume()` on it.",
    },
    Row {
        id: "receiver cut off",
        fault: "A standby receives nothing",
        made: "its WAL sender is terminated, and the replication role may not log in (NOLOGIN)",
        status: &["{s} is up", "{s} (receiver): receives no WAL"],
        log: &["standby receives no WAL", "node=\"{s}\""],
        never: &[
            "primary_failed",
            "has its replay paused",
            "{p} is down",
            "node is not available node=\"{p}\"",
        ],
        apart: "Its lag grows as with a paused replay, but it is the receiver that is named, and the primary is up: without one no standby receives anything.",
        help: "The standby's own log says why its receiver fails: the role's login or password, `pg_hba.conf`, the network between the servers, or WAL that the primary has removed already (then replace it).",
    },
    Row {
        id: "monitor's password",
        fault: "The monitoring role's password is wrong",
        made: "`ALTER ROLE … PASSWORD` with another one, and its connections terminated",
        status: &[
            "primary: none",
            "{p} (down): ",
            "{s} (down): ",
            "password authentication failed",
        ],
        log: &[
            "node is not available node=\"{p}\"",
            "node is not available node=\"{s}\"",
            "password authentication failed",
        ],
        never: &["promoted", "primary_failed"],
        apart: "All nodes are down at once, each with the servers' own *password authentication failed*; nobody is replaced, since the agents still find every server running.",
        help: "Set the role's password, or `monitor.password`. Statements that need a primary are held for `hold_timeout` meanwhile.",
    },
    Row {
        id: "pool exhausted",
        fault: "A pool is exhausted",
        made: "as many open transactions as `pool.size`, and one client more",
        status: &["{p} is up", "clients waiting at {p}: "],
        log: &["pool is exhausted", "node=\"{p}\""],
        never: &["primary_failed"],
        apart: "All nodes are up and nothing lags; clients wait. They get SQLSTATE 53300 after `pool.wait_timeout`.",
        help: "`SHOW POOLS` and `SHOW SERVERS` say who holds connections: usually transactions left open. `SHOW CLIENTS` says in `pinned` who keeps one outside of transactions, and why. Else a higher `pool.size`.",
    },
    Row {
        id: "impostor",
        fault: "Another hand has promoted a standby",
        made: "`pg_promote()` on a standby",
        status: &[
            "impostor: {s} runs as a primary on timeline",
            "{s} serves nobody: it claims to lead",
            "primary: {p}",
        ],
        log: &["{s} runs as a primary on timeline", "event=\"impostor\""],
        never: &["primary_failed"],
        apart: "The primary is what it was; a second one is named, with its timeline.",
        help: "Find out who promoted it, and look at what was written there before it is thrown away.",
    },
    Row {
        id: "etcd lost",
        fault: "etcd is lost",
        made: "etcd's only member is killed",
        status: &["why: etcd does not answer"],
        log: &["etcd does not answer", "this proxy does not lead any more"],
        never: &["promoted"],
        apart: "No node is named. Nobody writes, since another proxy may have promoted somebody; reads go on, and no server is stopped while the agents see each other.",
        help: "Bring back a majority of etcd's members. A primary that was stopped meanwhile is started again by itself.",
    },
];

/// The row of this name.
pub(crate) fn row(id: &str) -> &'static Row {
    ROWS.iter().find(|row| row.id == id).unwrap()
}

/// docs/faults.md.
pub(crate) fn print() -> String {
    let mut text = String::from(
        "# Faults, and how they are told apart\n\n\
         With only the dashboard (or `causeway top`, or `causeway status`), or only the log, each of \
         these can be told from the others. Printed by `tests/failover/faults`, which makes every one of them on \
         real servers, finds these words in `/api/status` and in the log, and finds no other row's \
         words there; do not edit. pg1 stands for the primary, pg3 for the standby concerned.\n\n\
         The status is shown as lines: `node is state`, `node (kind): what is wrong` (`troubles`), \
         `node serves nobody: why` (`failover.quarantine`), `kind: text` (`events`). What is wrong with \
         a receiver, a replay or an agent is known only with a `failover` section.\n",
    );
    for (number, row) in ROWS.iter().enumerate() {
        let words = |words: &[&str]| {
            let named = |word: &&str| word.replace("{p}", "pg1").replace("{s}", "pg3");
            let quoted = words
                .iter()
                .map(|word| format!("`{}`", named(word).trim_end()));
            quoted.collect::<Vec<_>>().join(" … ")
        };
        text.push_str(&format!(
            "\n## {}. {}\n\nMade by: {}.\n\n| | |\n|---|---|\n| status | {} |\n| log | {} |\n",
            number + 1,
            row.fault,
            row.made,
            words(row.status),
            words(row.log),
        ));
        if !row.never.is_empty() {
            text.push_str(&format!("| in neither | {} |\n", words(row.never)));
        }
        text.push_str(&format!("\n{}\n\nWhat to do: {}\n", row.apart, row.help));
    }
    text
}
