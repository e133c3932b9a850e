//! The dashboard's feed: one sampler for all viewers. It keeps some minutes of points, and hands each
//! new one to whoever is looking.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::point::Point;
use super::sources::Sources;
use super::status::{self, Status};

/// Pause between points.
const PAUSE: Duration = Duration::from_millis(500);
/// Points that are kept: five minutes.
const KEPT: usize = 600;
/// Percentiles are taken over so many points: of a few statements they would only be noise.
const SMOOTHED: usize = 4;
/// Viewers at one time.
const MOST_VIEWERS: usize = 32;
/// A viewer who is so many messages behind is sent away; its page comes back by itself.
const BEHIND: usize = 16;

/// A message to a viewer: the name of the event, and JSON.
pub(super) type Frame = (&'static str, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Sampler {
    state: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    points: VecDeque<Arc<str>>,
    viewers: Vec<mpsc::Sender<Frame>>,
}

/// What is shown anew with each point. `events` holds only those that were not shown before.
#[derive(Serialize)]
struct News {
    status: Status,
    point: Point,
}

impl Sampler {
    /// A new viewer's feed; none if there are too many. What came before is its first message.
    pub(super) fn view(&self, now: &Status) -> Option<mpsc::Receiver<Frame>> {
        let mut shown = self.state.lock();
        shown.viewers.retain(|viewer| !viewer.is_closed());
        if shown.viewers.len() >= MOST_VIEWERS {
            return None;
        }
        let (viewer, feed) = mpsc::channel(BEHIND);
        let points: Vec<&str> = shown.points.iter().map(|point| &**point).collect();
        let status = serde_json::to_string(now).unwrap_or_default();
        let past = format!("{{\"status\":{status},\"points\":[{}]}}", points.join(","));
        let _ = viewer.try_send(("past", past.into()));
        shown.viewers.push(viewer);
        Some(feed)
    }

    fn show(&self, news: &News) -> Result<(), serde_json::Error> {
        let point = serde_json::to_string(&news.point)?;
        let message: Arc<str> = serde_json::to_string(news)?.into();
        let mut shown = self.state.lock();
        shown.points.push_back(point.into());
        if shown.points.len() > KEPT {
            shown.points.pop_front();
        }
        let frame = ("now", message);
        shown
            .viewers
            .retain(|viewer| viewer.try_send(frame.clone()).is_ok());
        Ok(())
    }
}

/// Takes points for ever.
pub(super) async fn run(sources: Arc<Sources>, sampler: Arc<Sampler>) {
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let latency = || {
        let [primary, standby] = sources.metrics.routing.latency();
        [primary.recorded(), standby.recorded()]
    };
    let mut earlier = VecDeque::from([latency()]);
    let mut told = 0;
    loop {
        ticks.tick().await;
        let now = latency();
        let Some(before) = earlier.front() else {
            return;
        };
        let span = [now[0].since(&before[0]), now[1].since(&before[1])];
        earlier.push_back(now);
        if earlier.len() > SMOOTHED {
            earlier.pop_front();
        }
        let mut status = status::take(&sources);
        status.events.retain(|event| event.number > told);
        told = status.events.last().map_or(told, |event| event.number);
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at_ms = at.map_or(0, |since| since.as_millis() as u64);
        let point = Point::of(&status, span, at_ms);
        if let Err(error) = sampler.show(&News { status, point }) {
            tracing::error!(%error, "write a point of the dashboard");
        }
    }
}
