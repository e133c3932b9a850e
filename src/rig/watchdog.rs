//! A shell beside the cluster that cleans up should our process be killed outright.
//!
//! A parent-death signal would need code between fork and exec, which is unsafe Rust; a pipe that
//! the kernel closes on our behalf tells the same.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::RigError;
use super::deadline::Deadline;

/// The shell and, as its standard input, the pipe.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    /// Starts the shell for a cluster in that directory.
    pub(super) fn start(directory: &Path, keep: bool) -> Result<Self, RigError> {
        let shell = Command::new("/bin/sh")
            .args(["-c", include_str!("watchdog.sh"), "causeway-rig-watchdog"])
            .arg(directory)
            .arg(if keep { "keep" } else { "remove" })
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        shell
            .map(Self)
            .map_err(RigError::io("start /bin/sh as a watchdog"))
    }
}

impl Drop for Watchdog {
    /// Tells the shell that all is clean; it ends at once.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b"clean\n");
        }
        let deadline = Deadline::after(Duration::from_secs(5));
        while let Ok(None) = self.0.try_wait() {
            if !deadline.again_blocking() {
                let _ = self.0.kill();
            }
        }
    }
}
