//! Pauses of less than a millisecond, which the runtime's timer cannot measure.

use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's.
#[derive(Debug)]
pub(super) struct Pace {
    #[cfg(target_os = "linux")]
    timer: Option<AsyncFd<Timer>>,
}

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Timer(TimerFd);

#[cfg(target_os = "linux")]
impl std::os::fd::AsRawFd for Timer {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsFd::as_fd(&self.0).as_raw_fd()
    }
}

impl Pace {
    #[cfg(target_os = "linux")]
    #[allow(
        deprecated,
        reason = "sound here: the timer owns its descriptor as long as it lives"
    )]
    pub(super) fn new() -> Self {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
            .ok()
            .and_then(|timer| AsyncFd::new(Timer(timer)).ok());
        Self { timer }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> Self {
        Self {}
    }

    /// Waits for `pause`, to within some tens of microseconds where the system can.
    pub(super) async fn sleep(&mut self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer {
            let expiration = Expiration::OneShot(pause.into());
            if timer
                .get_ref()
                .0
                .set(expiration, TimerSetTimeFlags::empty())
                .is_ok()
                && let Ok(mut ready) = timer.readable().await
            {
                ready.clear_ready();
                return;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_is_never_too_short_and_can_be_repeated() {
        let mut pace = Pace::new();
        for _ in 0..3 {
            let began = std::time::Instant::now();
            pace.sleep(Duration::from_micros(300)).await;
            assert!(began.elapsed() >= Duration::from_micros(300));
        }
    }
}
