//! What a session listens to by the connection that it shares with others, and whether that may have
//! changed: the server is asked, since it alone knows what came of LISTEN and UNLISTEN.

use crate::core::fanout::Channel;

/// A session's channels.
#[derive(Debug, Default)]
pub(in crate::client) struct Channels {
    /// In the order in which they were first listened to, as `pg_listening_channels` gives them.
    heard: Vec<Channel>,
    /// Something has completed that may have changed them.
    unsure: bool,
    /// What the held server connection was found to listen to.
    found: Option<Vec<Channel>>,
    /// It listens to more, by names for which the client's encoding has no letters.
    unspeakable: bool,
}

impl Channels {
    /// Those that it hears.
    pub(in crate::client) fn heard(&self) -> &[Channel] {
        &self.heard
    }

    /// Whether it hears any.
    pub(in crate::client) fn hears(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Whether it hears this one.
    pub(in crate::client) fn has(&self, channel: &[u8]) -> bool {
        self.heard.iter().any(|heard| **heard == *channel)
    }

    /// It hears these from now on.
    pub(in crate::client) fn hear(&mut self, channels: Vec<Channel>) {
        self.heard = channels;
    }

    /// LISTEN has completed.
    pub(super) fn listened(&mut self) {
        self.unsure = true;
    }

    /// UNLISTEN has completed, or DISCARD ALL.
    pub(super) fn unlistened(&mut self) {
        self.unsure |= self.hears();
    }

    /// Whether the server connection in use is to be asked what it listens to.
    pub(in crate::client) fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Whether an answer is not to end before it is settled what the session hears, or has heard.
    pub(in crate::client) fn holds_up(&self) -> bool {
        self.unsure || self.hears()
    }

    /// The server connection listens to these, and perhaps to others that nobody can name here.
    pub(in crate::client) fn find(&mut self, channels: Vec<Channel>, unspeakable: bool) {
        self.found = Some(channels);
        self.unspeakable = unspeakable;
    }

    /// Whether the server connection was found to listen to what only it can name.
    pub(in crate::client) fn are_unspeakable(&self) -> bool {
        self.unspeakable
    }

    /// What the server connection was found to listen to, if it was asked.
    pub(in crate::client) fn take_found(&mut self) -> Option<Vec<Channel>> {
        self.found.take()
    }

    /// It is known what the server connection listens to.
    pub(super) fn settled(&mut self) {
        self.unsure = false;
    }

    /// The server connection is lost, and with it what was not taken over yet.
    pub(super) fn lost(&mut self) {
        self.unsure = false;
        self.found = None;
        self.unspeakable = false;
    }

    /// What it takes to remember them, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.heard.iter().map(|channel| channel.len() + 32).sum()
    }
}
