//! PgBouncer as a contestant: found, configured and started as it would be in front of this cluster.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::unistd::{Uid, User};
use pgcauseway::rig::Cluster;
use tokio::process::{Child, Command};

use super::contestant::POOL;
use crate::Outcome;

/// For the prepared cells of a PgBouncer that cannot do them in transaction pooling: a server
/// connection for each client.
const SESSION_POOL: usize = 100;

/// The installed program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    pub(crate) version: String,
    /// From 1.21 on prepared statements work in transaction pooling.
    pub(crate) prepares: bool,
}

impl Program {
    /// The one that is named, or the first on PATH and in /usr/sbin that answers.
    pub(crate) fn find(named: Option<&Path>) -> Outcome<Self> {
        let candidates = match named {
            Some(path) => vec![path.to_owned()],
            None => vec!["pgbouncer".into(), "/usr/sbin/pgbouncer".into()],
        };
        for path in candidates {
            let answer = std::process::Command::new(&path).arg("--version").output();
            let Ok(answer) = answer else { continue };
            let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
            let version = answer
                .lines()
                .next()
                .unwrap_or("")
                .replace("PgBouncer ", "");
            let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0_u32));
            let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
            return Ok(Self {
                path,
                version,
                prepares: number >= (1, 21),
            });
        }
        Err("no PgBouncer on PATH or in /usr/sbin; install it or name it by --pgbouncer".into())
    }

    /// Starts it in a directory of its own, which is made.
    pub(crate) fn start(&self, cluster: &Cluster, directory: &Path, port: u16) -> Outcome<Child> {
        let login = cluster.application();
        let (primary, standby) = (
            cluster.primary().port(),
            cluster.standbys().first().ok_or("no standby")?.port(),
        );
        let name = &login.database;
        let prepared = if self.prepares {
            "max_prepared_statements = 500\n"
        } else {
            ""
        };
        let session = format!("pool_mode=session pool_size={SESSION_POOL}");
        let settings = format!(
            "[databases]\n\
             {name} = host=127.0.0.1 port={primary}\n\
             {name}_session = host=127.0.0.1 port={primary} dbname={name} {session}\n\
             {name}_standby = host=127.0.0.1 port={standby} dbname={name}\n\
             {name}_standby_session = host=127.0.0.1 port={standby} dbname={name} {session}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = scram-sha-256\n\
             auth_file = users.txt\n\
             pool_mode = transaction\n\
             default_pool_size = {POOL}\n\
             max_client_conn = 10000\n\
             ignore_startup_parameters = extra_float_digits\n\
             log_connections = 0\n\
             log_disconnections = 0\n\
             {prepared}"
        );
        fs::create_dir_all(directory)?;
        let (config, users) = (directory.join("pgbouncer.ini"), directory.join("users.txt"));
        fs::write(&config, settings)?;
        fs::write(
            &users,
            format!("\"{}\" \"{}\"\n", login.user, login.password),
        )?;
        let log = fs::File::create(directory.join("pgbouncer.log"))?;
        let mut command = Command::new(&self.path);
        command
            .arg("pgbouncer.ini")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        if let Some((uid, gid)) = unprivileged()? {
            for path in [directory, &config, &users] {
                chown(path, Some(uid), Some(gid))?;
            }
            command.uid(uid).gid(gid);
        }
        Ok(command.spawn()?)
    }
}

/// PgBouncer refuses root, as the servers do, and runs as the same user as they.
fn unprivileged() -> Outcome<Option<(u32, u32)>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    Err("neither a user postgres nor nobody to run PgBouncer".into())
}
