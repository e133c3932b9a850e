//! The data that a cluster begins with: made by initdb, with the roles and databases that it is to have, or
//! copied from what this process has made before. A clean copy is a base backup, and takes milliseconds.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parking_lot::Mutex;
use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::credentials::{Credentials, Login};
use super::deadline::Deadline;
use super::home::{self, Home};
use super::shared::Shared;
use super::watchdog::Watchdog;
use super::{Binaries, RigError};

/// What an operator runs, so that it is known to suffice.
const GRANTS: &str = include_str!("../../scripts/grants.sql");
/// From here on the grants are for version 15 and newer.
const FROM_15: &str = "-- From PostgreSQL 15 on.";

/// Made once, and as long as the process lives; then the watchdogs remove them.
static TEMPLATES: Mutex<Vec<Template>> = Mutex::new(Vec::new());

/// Data that no server runs on.
struct Template {
    binaries: Binaries,
    credentials: Credentials,
    home: Home,
    _watchdog: Watchdog,
}

/// Makes a data directory in a node's directory. A copy has the system identifier that all copies have;
/// its `own` history tells a cluster from every other one.
pub(super) fn make(home: &Path, shared: &Shared, own: bool) -> Result<(), RigError> {
    if own {
        return create(home, shared);
    }
    let from = {
        let mut templates = TEMPLATES.lock();
        let found = templates.iter().find(|template| template.is_for(shared));
        match found {
            Some(template) => data(&template.home.path),
            None => {
                let template = Template::make(shared)?;
                let data = data(&template.home.path);
                templates.push(template);
                data
            }
        }
    };
    home::copy_data(&from, &data(home), shared.account)
}

/// Where a node's directory has its data.
fn data(home: &Path) -> PathBuf {
    home.join("data")
}

impl Template {
    fn is_for(&self, shared: &Shared) -> bool {
        self.binaries == shared.binaries && self.credentials == shared.credentials
    }

    fn make(shared: &Shared) -> Result<Self, RigError> {
        let home = Home::create(None, "template", false, false, shared.account)?;
        let watchdog = Watchdog::start(&home.path, false)?;
        create(&home.path, shared)?;
        Ok(Self {
            binaries: shared.binaries.clone(),
            credentials: shared.credentials.clone(),
            home,
            _watchdog: watchdog,
        })
    }
}

/// Makes it from nothing. No server runs yet: what is to be in the data is told to one without clients.
fn create(home: &Path, shared: &Shared) -> Result<(), RigError> {
    let Shared {
        binaries,
        account,
        credentials,
        ..
    } = shared;
    let superuser = &credentials.superuser;
    let password_file = home.join("password");
    let password = format!("{}\n", superuser.password);
    home::write_private(&password_file, &password, *account)?;
    let mut command = Command::new(binaries.program("initdb"));
    command
        .arg("-D")
        .arg(data(home))
        .arg(format!("--username={}", superuser.user))
        .arg(format!("--pwfile={}", password_file.display()))
        .args([
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ])
        .stdin(Stdio::null());
    run("initdb", command, home, shared)?;
    let _ = std::fs::remove_file(&password_file);

    let script = home.join("roles.sql");
    home::write_private(&script, &roles(credentials, binaries.major()), *account)?;
    let input = std::fs::File::open(&script);
    let input = input.map_err(RigError::io(format!("open {}", script.display())))?;
    let mut command = Command::new(binaries.program("postgres"));
    command
        .args(["--single", "-j", "-D"])
        .arg(data(home))
        .args([
            "-c",
            "password_encryption=scram-sha-256",
            "-c",
            "fsync=off",
            // No WAL but what is needed is worth a copy.
            "-c",
            "min_wal_size=32MB",
        ])
        .arg(&superuser.database)
        .stdin(input);
    let said = run("postgres --single", command, home, shared)?;
    let _ = std::fs::remove_file(&script);
    // It goes on after an error, and succeeds.
    match said.contains("ERROR:") {
        false => Ok(()),
        true => Err(RigError::io("make the roles and databases")(
            io::Error::other(said),
        )),
    }
}

/// Runs one of PostgreSQL's programs to its end; what it printed.
fn run(
    program: &'static str,
    mut command: Command,
    home: &Path,
    shared: &Shared,
) -> Result<String, RigError> {
    let Shared {
        account, within, ..
    } = shared;
    let doing = || RigError::io(format!("run {program} in {} as {account}", home.display()));
    let log = home.join("initdb.log");
    let output = home::open_log(&log, *account)?;
    command
        .current_dir(home)
        .stdout(output.try_clone().map_err(doing())?)
        .stderr(output);
    account.prepare(&mut command);
    let mut child = command.spawn().map_err(doing())?;
    let deadline = Deadline::after(*within);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(doing())? {
            break status;
        }
        if !deadline.again_blocking() {
            let _ = child.kill();
            return Err(RigError::TooLate {
                node: program.to_owned(),
                awaited: "end".to_owned(),
                within: *within,
                log: home::tail(&log),
            });
        }
    };
    let output = home::tail(&log);
    match status.success() {
        true => Ok(output),
        false => Err(RigError::Program {
            program,
            status,
            output,
        }),
    }
}

/// Who may log in, and the applications' databases; two newlines end a command.
fn roles(credentials: &Credentials, major: u32) -> String {
    let create = |login: &Login, attributes: &str| {
        let (user, password) = (
            escape_identifier(&login.user),
            escape_literal(&login.password),
        );
        format!("create role {user} login {attributes} password {password};\n\n")
    };
    let monitor = create(&credentials.monitor, "");
    let replication = create(&credentials.replication, "replication");
    let grants = match GRANTS.split_once(FROM_15) {
        Some((before, _)) if major < 15 => before,
        _ => GRANTS,
    };
    // Copied as files it leaves no WAL.
    let strategy = if major < 15 { "" } else { "strategy file_copy" };
    let applications = credentials.applications.iter().map(|login| {
        let (user, database) = (
            escape_identifier(&login.user),
            escape_identifier(&login.database),
        );
        let role = create(login, "");
        format!("{role}create database {database} owner {user} {strategy};\n\n")
    });
    let applications: String = applications.collect();
    format!("{monitor}{replication}{grants}\n\n{applications}")
}
