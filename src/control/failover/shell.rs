//! An operator's command (`fence_command`, `rejoin_command`): whatever it has begun ends with it, and it ends with
//! this process, however that ends.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;

/// Runs the command in a group with a guard, which kills the group once nobody holds the other end of its pipe
/// any more, as when this process was killed; told a line before, it leaves.
const GUARDED: &str = "\
exec 3<&0 </dev/null
(read -r line <&3 || kill -s KILL 0) &
exec 3<&-
exec /bin/sh -c \"$1\"";

/// The processes of a command; those that are left are killed when this is dropped, unless it has ended by
/// itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs a command with these variables in its environment. Err: why it has not succeeded, for people.
pub(super) async fn run(
    command: &str,
    variables: &[(&str, String)],
    bound: Duration,
) -> Result<(), String> {
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell
        .args(["-c", GUARDED, "sh", command])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A group of its own: what the shell has started is in it.
        .process_group(0);
    let failed = |error: std::io::Error| format!("run /bin/sh: {error}");
    let mut child = shell.spawn().map_err(failed)?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(leader.map(Pid::from_raw));
    // Waiting would close it.
    let mut guard = child.stdin.take();
    let ended = tokio::time::timeout(bound, child.wait()).await;
    let status = match ended {
        Ok(status) => status.map_err(failed)?,
        Err(_) => {
            drop(group);
            // It is killed: this takes no time.
            let _ = tokio::time::timeout(bound, child.wait()).await;
            return Err(format!("not done in {bound:?}"));
        }
    };
    group.0 = None;
    if let Some(guard) = &mut guard {
        // It may be gone: the command may have ended its own group.
        let _ = guard.write_all(b"\n").await;
    }
    match status.success() {
        true => Ok(()),
        false => Err(format!("it ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a process runs, by its number.
    fn runs(process: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
        // One that nobody has waited for yet is a zombie.
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn what_a_command_has_begun_ends_with_it() {
        let minute = Duration::from_secs(60);
        tokio::time::timeout(minute, each_way()).await.unwrap();
    }

    const WITHIN: &str = "CAUSEWAY_TEST_SHELL_WITHIN";

    /// This test runs itself in another process, which is killed.
    #[tokio::test]
    async fn what_a_command_has_begun_ends_with_a_process_that_is_killed() {
        let told = std::env::temp_dir().join(format!("causeway-guard-{}", std::process::id()));
        if let Some(told) = std::env::var_os(WITHIN) {
            let variables = [("TOLD", told.to_string_lossy().into_owned())];
            let command = "sleep 600 & echo $! > \"$TOLD.new\"; mv \"$TOLD.new\" \"$TOLD\"; wait";
            let ended = run(command, &variables, Duration::from_secs(60)).await;
            panic!("{ended:?}");
        }
        let name = "control::failover::shell::tests::what_a_command_has_begun_ends_with_a_process_that_is_killed";
        let mut proxy = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(WITHIN, &told)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let both = async {
            let process = loop {
                match std::fs::read_to_string(&told) {
                    Ok(text) => break text.trim().to_owned(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            assert!(runs(&process));
            proxy.kill().unwrap();
            proxy.wait().unwrap();
            while runs(&process) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let bound = Duration::from_secs(30);
        tokio::time::timeout(bound, both).await.unwrap();
        std::fs::remove_file(told).unwrap();
    }

    async fn each_way() {
        let directory = std::env::temp_dir().join(format!("causeway-shell-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let told = directory.join("child");
        let variables = [("TOLD", told.display().to_string())];
        let command = "sleep 600 & echo $! > \"$TOLD.new\"; mv \"$TOLD.new\" \"$TOLD\"; wait";
        let child = async || {
            loop {
                match std::fs::read_to_string(&told) {
                    Ok(text) => return text.trim().to_owned(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let gone = async |process: &str| {
            while runs(process) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Its time is up.
        let bound = Duration::from_secs(3);
        let error = run(command, &variables, bound).await.unwrap_err();
        assert!(error.contains("not done in"), "{error}");
        gone(&child().await).await;
        std::fs::remove_file(&told).unwrap();
        // Nobody waits for it any more, as at the end of a proxy.
        let hour = Duration::from_secs(3_600);
        // A branch's own block runs when the other future has been dropped already.
        let seen = async { assert!(runs(&child().await)) };
        tokio::select! {
            ended = run(command, &variables, hour) => panic!("{ended:?}"),
            () = seen => {}
        }
        gone(&child().await).await;
        // What it leaves behind when it ends well is its own business.
        std::fs::remove_file(&told).unwrap();
        let leaves = command.replace("; wait", "");
        run(&leaves, &variables, hour).await.unwrap();
        let process = child().await;
        assert!(runs(&process));
        let pid = Pid::from_raw(process.parse().unwrap());
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
