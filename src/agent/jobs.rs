//! The one job that may be under way.

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::api::{Job, JobState, RejoinRequest};

/// The job under way or the last one.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    slot: Mutex<Option<Slot>>,
}

#[derive(Debug)]
struct Slot {
    asked: RejoinRequest,
    job: Job,
    cancel: CancellationToken,
}

impl Jobs {
    /// Tells the job to end; it does at its next step.
    pub(super) fn cancel(&self) {
        if let Some(slot) = self.slot.lock().as_ref() {
            slot.cancel.cancel();
        }
    }

    /// Whether a job is under way.
    pub(super) fn is_running(&self) -> bool {
        self.last()
            .is_some_and(|job| job.state == JobState::Running)
    }

    /// The job under way or the last one.
    pub(super) fn last(&self) -> Option<Job> {
        self.slot.lock().as_ref().map(|slot| slot.job.clone())
    }

    /// The job under way if it is the very one that is asked for.
    pub(super) fn same(&self, asked: &RejoinRequest) -> Option<Job> {
        let slot = self.slot.lock();
        let slot = slot.as_ref().filter(|slot| {
            slot.job.state == JobState::Running
                && slot.asked == *asked
                && !slot.cancel.is_cancelled()
        });
        slot.map(|slot| slot.job.clone())
    }

    /// Puts a job in the place of one that has ended; false while one is under way.
    pub(super) fn begin(
        &self,
        asked: &RejoinRequest,
        job: &Job,
        cancel: &CancellationToken,
    ) -> bool {
        let mut slot = self.slot.lock();
        let running = slot
            .as_ref()
            .is_some_and(|slot| slot.job.state == JobState::Running);
        if !running {
            *slot = Some(Slot {
                asked: asked.clone(),
                job: job.clone(),
                cancel: cancel.clone(),
            });
        }
        !running
    }

    /// Says how far the job is.
    pub(super) fn tell(&self, state: JobState, detail: impl Into<String>) {
        if let Some(slot) = self.slot.lock().as_mut() {
            slot.job.state = state;
            slot.job.detail = detail.into();
        }
    }
}
