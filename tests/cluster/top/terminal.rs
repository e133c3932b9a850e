//! A terminal that a test can look at: a tmux server of its own, killed when dropped.

use std::process::Command;
use std::time::Instant;

use crate::support::{BOUND, need};

pub(crate) struct Terminal {
    socket: String,
}

impl Terminal {
    /// A shell in a window of this size; none where the test is skipped for want of tmux.
    pub(crate) fn new(name: &str, width: u16, height: u16) -> Option<Self> {
        if !need("tmux") {
            return None;
        }
        let terminal = Self {
            socket: format!("causeway-test-{name}-{}", std::process::id()),
        };
        let (width, height) = (width.to_string(), height.to_string());
        let shell = "env -u TMUX PS1='$ ' sh";
        let new = ["new-session", "-d", "-x", &width, "-y", &height, shell];
        terminal.tmux(&new);
        Some(terminal)
    }

    /// Types a command; what it prints is to be awaited.
    pub(crate) fn shell(&self, command: &str) {
        self.tmux(&["send-keys", "-l", command]);
        self.press("Enter");
    }

    /// Lets the shell be replaced by this command.
    pub(crate) fn run(&self, command: &str) {
        self.shell(&format!("exec {command}"));
    }

    /// A key, by tmux's name.
    pub(crate) fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height]);
    }

    /// Sends a signal to what the shell runs at the moment.
    pub(crate) fn signal(&self, signal: &str) {
        let shell = self.ask("#{pane_pid}");
        let children = format!("/proc/{0}/task/{0}/children", shell.trim());
        let child = std::fs::read_to_string(children).unwrap();
        let sent = Command::new("kill")
            .args(["-s", signal, child.trim()])
            .status();
        assert!(sent.unwrap().success(), "{child}");
    }

    pub(crate) fn on_alternate_screen(&self) -> bool {
        self.ask("#{alternate_on}") == "1"
    }

    pub(crate) fn shows_cursor(&self) -> bool {
        self.ask("#{cursor_flag}") == "1"
    }

    /// Waits until the screen is as wanted, and returns it.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + BOUND;
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if wanted(&screen) {
                return screen;
            }
            assert!(
                Instant::now() < until,
                "waited in vain until {what}:\n{screen}"
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn ask(&self, format: &str) -> String {
        let answer = self.tmux(&["display-message", "-p", format]);
        answer.trim().to_owned()
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.socket, "-f", "/dev/null"])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .args(["-L", &self.socket, "kill-server"])
            .output();
    }
}
