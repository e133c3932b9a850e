//! Whom commits wait for on a server: set so that no earlier order comes after it, and found out to hold.
//!
//! That a setting shows a rule says little. Whether a commit waits at all is decided by a flag in shared
//! memory that the checkpointer sets when it gets round to reading the setting, which the end of a
//! checkpoint can put off for long; and each WAL sender acknowledges by the rule that it has read itself.
//! So a commit of our own must be seen to wait, and each WAL sender to stand where it reads its settings
//! before it reads what its standby says.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::control_sessions::END_OTHERS;
use super::executor::{BOUND, CommandError, Executor, RELOAD, alter, bounded};
use super::sync_names;
use crate::core::failover::command::Command;
use crate::core::failover::quorum::CommitRule;
use crate::core::topology::NodeId;

/// Name of those that find out whether it holds.
const PROVES: &str = "causeway rule proof";
/// How long one attempt to prove a rule may take.
const PROOF: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// WAL senders that have not been seen to wait since. One that waits in its loop, for its next command, or
/// to write, reads changed settings before it hears anything more; one that sends a base backup acknowledges
/// nothing, and neither does one to which the rule that it has read gives no priority (walsender.c, syncrep.c).
/// Without a position it shows no priority, whatever it has read.
const BUSY_SENDERS: &str = "\
SELECT a.pid FROM pg_stat_get_activity(NULL) AS a LEFT JOIN pg_stat_get_wal_senders() AS r ON r.pid = a.pid
 WHERE a.backend_type = 'walsender' AND r.state IS DISTINCT FROM 'backup'
   AND (r.sync_priority = 0 AND r.flush_lsn IS NOT NULL) IS NOT TRUE
   AND COALESCE(lower(a.wait_event), '') NOT IN
       ('walsendermain', 'walsenderwaitforwal', 'walsenderwritedata', 'clientread')
   AND ($1::int4[] IS NULL OR a.pid = ANY ($1))";

/// Looks many times whether a session's commit waits, for some milliseconds.
const WAITS: &str = "\
SELECT true FROM generate_series(1, 4000) AS look(n),
       LATERAL pg_stat_get_activity($1::int4 + 0 * look.n) AS a
 WHERE a.wait_event = 'SyncRep' LIMIT 1";

const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'causeway', 'rule')";

impl Executor {
    /// Sets the rule. When this has succeeded nothing that was ordered before is on its way any more.
    pub(super) async fn set_rule(
        &self,
        command: &Command,
        node: NodeId,
        rule: &CommitRule,
    ) -> Result<(), CommandError> {
        self.facts.setting_rule();
        let names = sync_names::text(rule, &self.policy);
        let set = alter("synchronous_standby_names", &names);
        self.set_names(node, &set).await?;
        self.facts.rule_set(node, command.epoch, rule.clone());
        Ok(())
    }

    /// No rule is wanted any more.
    pub(super) async fn reset_rule(&self, node: NodeId) -> Result<(), CommandError> {
        self.facts.setting_rule();
        let reset = "ALTER SYSTEM RESET synchronous_standby_names";
        self.set_names(node, reset).await
    }

    async fn set_names(&self, node: NodeId, statement: &str) -> Result<(), CommandError> {
        let session = self.session(node).await?;
        let set = bounded(async {
            // Whoever has been told to end may still be at work.
            while !session.query(END_OTHERS, &[]).await?.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            session.batch_execute(statement).await?;
            session.batch_execute(RELOAD).await?;
            Ok(())
        });
        let set = set.await;
        self.after(node, &session, set)
    }

    /// Finds out whether every process of a primary goes by the rule that was set last; a fact says so.
    pub(super) async fn prove_rule(
        &self,
        command: &Command,
        node: NodeId,
        rule: &CommitRule,
    ) -> Result<(), CommandError> {
        let Some(set_us) = self.facts.rule_set_us(node, command.epoch, rule) else {
            return Ok(());
        };
        let proof = self.proof(node, rule);
        tokio::time::timeout(PROOF + BOUND, proof)
            .await
            .unwrap_or_else(|_| Err(CommandError::new(format!("no answer within {PROOF:?}"))))?;
        self.facts.rule_in_force(set_us);
        Ok(())
    }

    async fn proof(&self, node: NodeId, rule: &CommitRule) -> Result<(), CommandError> {
        let commits = self.connect(node, PROVES).await?;
        let setup = "SET synchronous_commit = on; SET statement_timeout = '2s'";
        commits.batch_execute(setup).await?;
        let asked = commits.query_one(
            "SELECT pg_backend_pid(), current_setting('synchronous_standby_names')",
            &[],
        );
        let row = asked.await?;
        let (pid, names): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
        if sync_names::parse(&names, &self.policy).as_ref() != Some(rule) {
            return Err(CommandError::new(format!("it shows \"{names}\" still")));
        }
        // A session begun after another has shown the new setting: by now every process has been told to
        // read it.
        let looks = self.connect(node, PROVES).await?;
        let until = Instant::now() + PROOF;
        senders_have_read(&looks, until).await?;
        while !waits(&commits, &looks, pid).await? {
            if Instant::now() > until {
                let text = "its commits are not seen to wait; is a checkpoint long in ending?";
                return Err(CommandError::new(text.to_owned()));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// Waits until each WAL sender of now has read its settings, or will before it acknowledges anything.
async fn senders_have_read(looks: &Client, until: Instant) -> Result<(), CommandError> {
    let mut busy: Option<Vec<i32>> = None;
    loop {
        let rows = looks.query(BUSY_SENDERS, &[&busy]).await?;
        let pids: Result<Vec<i32>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        let pids = pids?;
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            let text = format!("WAL senders {pids:?} are not seen to read their settings");
            return Err(CommandError::new(text));
        }
        busy = Some(pids);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a commit was seen to wait for standbys. One that was not may have waited all the same.
async fn waits(commits: &Client, looks: &Client, pid: i32) -> Result<bool, CommandError> {
    let seen = async {
        let row = looks.query_opt(WAITS, &[&pid]).await?;
        if row.is_some() {
            // It need not go on: no standby may be there.
            looks
                .query_one("SELECT pg_cancel_backend($1)", &[&pid])
                .await?;
        }
        Ok::<_, tokio_postgres::Error>(row.is_some())
    };
    let (seen, committed) = tokio::join!(seen, commits.batch_execute(COMMIT));
    match committed {
        Ok(()) => {}
        // The end of the waiting came when the commit was through.
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(seen?)
}
