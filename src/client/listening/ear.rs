//! A session's end of a listening connection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::feed::Feed;
use super::inbox::{Heard, Inbox};
use crate::core::fanout::{Channel, HearerId};
use crate::error::Problem;

/// A LISTEN waits no longer for the connection to take it over.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// The connection could not be told: it is not there, or does not answer.
#[derive(Debug)]
pub(in crate::client) struct Deaf;

/// A session's end; given up when dropped.
#[derive(Debug)]
pub(in crate::client) struct Ear {
    feed: Arc<Feed>,
    id: HearerId,
    inbox: Arc<Inbox>,
}

impl Ear {
    pub(super) fn of(feed: &Arc<Feed>) -> Self {
        let (id, inbox) = feed.join();
        Self {
            feed: Arc::clone(feed),
            id,
            inbox,
        }
    }

    /// In which encoding it hears.
    pub(in crate::client) fn encoding(&self) -> &Arc<str> {
        &self.feed.audience().encoding
    }

    /// The session listens to exactly these channels from now on, once this has returned. What came on
    /// others and has not been taken yet is dropped.
    ///
    /// # Errors
    ///
    /// The connection could not be had, or has not taken it over in time.
    pub(in crate::client) async fn listen(&self, channels: &[Channel]) -> Result<(), Deaf> {
        let kept: BTreeSet<Channel> = channels.iter().cloned().collect();
        let (round, failures) = self.feed.tell(|state| {
            let round = state.fanout.listen(self.id, channels);
            // Nothing that is not listened to comes in between.
            self.inbox.retain(&kept);
            (round, state.failures)
        });
        self.feed
            .wait_for(TAKEN_OVER, |state| {
                state.fanout.is_over(round) || state.failures > failures
            })
            .await;
        match self.feed.look(|state| state.fanout.is_over(round)) {
            true => Ok(()),
            false => Err(Deaf),
        }
    }

    /// Waits until everything is there that was acknowledged before.
    pub(in crate::client) async fn catch_up(&self) {
        self.feed.catch_up().await;
    }

    /// Waits for nothing but the session's end.
    pub(in crate::client) fn poll_over(&self, cx: &Context<'_>) -> Poll<Problem> {
        self.inbox.poll_over(cx)
    }

    /// All that has been heard and not taken yet.
    pub(in crate::client) fn take(&self) -> Option<Heard> {
        self.inbox.take()
    }

    /// Waits until something is heard, and gives at most so many bytes of it.
    pub(in crate::client) fn poll(&self, cx: &Context<'_>, most: usize) -> Poll<Heard> {
        self.inbox.poll(cx, most)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.feed.leave(self.id);
    }
}
