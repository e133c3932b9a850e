//! Which user the servers run as: ourselves, or an unprivileged one when root starts them.

use std::fmt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use super::RigError;

/// The user that owns the data directories and runs the servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// None when we are that user.
    other: Option<(u32, u32)>,
    name: &'static str,
}

impl Account {
    /// Ourselves; or, since PostgreSQL refuses root, `postgres`, or else `nobody`.
    pub(super) fn choose() -> Result<Self, RigError> {
        if !Uid::effective().is_root() {
            return Ok(Self {
                other: None,
                name: "ourselves",
            });
        }
        let known = |name| Some((name, User::from_name(name).ok()??));
        let (name, user) = known("postgres")
            .or_else(|| known("nobody"))
            .ok_or(RigError::NoAccount)?;
        Ok(Self {
            other: Some((user.uid.as_raw(), user.gid.as_raw())),
            name,
        })
    }

    /// Hands a file or directory over.
    pub(super) fn own(&self, path: &Path) -> Result<(), RigError> {
        let Some((uid, gid)) = self.other else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).map_err(RigError::io(format!(
            "change the owner of {}",
            path.display()
        )))
    }

    /// Keeps a command away from our terminal's signals and from variables that configure servers.
    pub(super) fn clean(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let name_bytes = name.as_encoded_bytes();
            if name_bytes.starts_with(b"PG") || name_bytes.starts_with(b"ETCD") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").process_group(0);
    }

    /// How nsenter is told to become that user.
    pub(super) fn nsenter_arguments(&self) -> Vec<String> {
        self.other.map_or_else(Vec::new, |(uid, gid)| {
            vec![format!("--setuid={uid}"), format!("--setgid={gid}")]
        })
    }

    /// Makes a clean command run as that user.
    pub(super) fn prepare(&self, command: &mut Command) {
        self.clean(command);
        if let Some((uid, gid)) = self.other {
            // With the uid, the standard library drops root's supplementary groups too.
            command.uid(uid).gid(gid);
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
