//! What there is to show, and how it changes: what the proxy has said, the keys that were pressed, and the
//! rates between two of its points. Time is an argument, counted from the start of the program.

use std::collections::VecDeque;
use std::time::Duration;

use super::feed::ServerSentEvent;
use super::format;
use super::status::{News, NodePoint, Past, Percentiles, Point, Status, Told};

/// Points that are kept: a minute and a half.
const POINTS: usize = 180;
/// Events that are kept: as many as the proxy keeps.
const EVENTS: usize = 200;
/// Rates are over so many points: two seconds and a half.
const SPAN: usize = 5;
/// Points that lie further apart than this have a gap between them, over which nothing is said.
const GAP_MS: u64 = 3_000;

/// What can happen to the model.
#[derive(Debug)]
pub enum Happening {
    /// The proxy has said something.
    Said(ServerSentEvent),
    /// There is no connection to the proxy.
    Lost {
        why: String,
        /// When it is tried again.
        again_in: Duration,
    },
    Pressed(Key),
}

/// The keys that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Another view.
    Next,
    /// Towards older events.
    Up(usize),
    /// Towards newer events.
    Down(usize),
    /// The oldest event.
    First,
    /// The latest event, and those that follow.
    Last,
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Overview,
    /// The events alone, at full length.
    Events,
}

/// Whether what is shown is of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Nothing has been heard yet.
    Connecting,
    /// The proxy was heard at this time.
    Live(Duration),
    /// It is away.
    Lost {
        why: String,
        /// The latest word from it.
        heard: Option<Duration>,
        again_at: Duration,
    },
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Good,
    Warn,
    Bad,
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Model {
    pub(super) address: String,
    pub(super) link: Link,
    pub(super) status: Option<Status>,
    points: VecDeque<Point>,
    pub(super) events: VecDeque<Told>,
    pub(super) view: View,
    /// How many of the latest events lie below the window.
    pub(super) scrolled: usize,
}

impl Model {
    /// Nothing is known yet of the proxy at this address.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            link: Link::Connecting,
            status: None,
            points: VecDeque::new(),
            events: VecDeque::new(),
            view: View::Overview,
            scrolled: 0,
        }
    }

    /// Takes note of what has happened. Err: the proxy has said what cannot be understood.
    pub fn note(&mut self, happening: Happening, now: Duration) -> Result<(), String> {
        match happening {
            Happening::Said(event) => self.hear(&event, now)?,
            Happening::Lost { why, again_in } => {
                let heard = match self.link {
                    Link::Connecting => None,
                    Link::Live(at) => Some(at),
                    Link::Lost { heard, .. } => heard,
                };
                let again_at = now + again_in;
                self.link = Link::Lost {
                    why,
                    heard,
                    again_at,
                };
            }
            Happening::Pressed(key) => self.press(key),
        }
        Ok(())
    }

    fn hear(&mut self, event: &ServerSentEvent, now: Duration) -> Result<(), String> {
        let wrong = |error| {
            format!(
                "what it says at `{}` is not understood: {error}",
                event.name
            )
        };
        match event.name.as_str() {
            // What was known before may be of another process.
            "past" => {
                let past: Past = serde_json::from_str(&event.data).map_err(wrong)?;
                self.points = past.points.into();
                self.events.clear();
                self.show(past.status);
            }
            "now" => {
                let news: News = serde_json::from_str(&event.data).map_err(wrong)?;
                self.points.push_back(news.point);
                self.show(news.status);
            }
            _ => return Ok(()),
        }
        while self.points.len() > POINTS {
            self.points.pop_front();
        }
        self.link = Link::Live(now);
        Ok(())
    }

    fn show(&mut self, mut status: Status) {
        let told = self.events.back().map_or(0, |event| event.number);
        let fresh = std::mem::take(&mut status.events).into_iter();
        for event in fresh.filter(|event| event.number > told) {
            self.events.push_back(event);
            // Who reads older ones keeps them in view.
            self.scrolled += usize::from(self.scrolled > 0);
        }
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
        self.bound_scroll();
        self.status = Some(status);
    }

    fn press(&mut self, key: Key) {
        match key {
            Key::Next => {
                self.view = match self.view {
                    View::Overview => View::Events,
                    View::Events => View::Overview,
                };
            }
            Key::Up(lines) => self.scrolled = self.scrolled.saturating_add(lines),
            Key::Down(lines) => self.scrolled = self.scrolled.saturating_sub(lines),
            Key::First => self.scrolled = usize::MAX,
            Key::Last => self.scrolled = 0,
        }
        self.bound_scroll();
    }

    /// One event at least stays in view.
    fn bound_scroll(&mut self) {
        self.scrolled = self.scrolled.min(self.events.len().saturating_sub(1));
    }

    pub(super) fn point(&self) -> Option<&Point> {
        self.points.back()
    }

    /// The change per second of a counter over the latest points. None where there is nothing to
    /// compare with: a first point, a gap, or a proxy that has counted anew.
    pub(super) fn rate(&self, read: impl Fn(&Point) -> f64) -> Option<f64> {
        let recent = self.points.len().saturating_sub(SPAN + 1);
        let recent: Vec<&Point> = self.points.range(recent..).collect();
        let follows = |pair: &[&Point]| match pair {
            [before, after] => {
                after.at_ms.saturating_sub(before.at_ms) <= GAP_MS && read(before) <= read(after)
            }
            _ => false,
        };
        let first = recent.windows(2).rposition(|pair| !follows(pair));
        let first = recent.get(first.map_or(0, |at| at + 1))?;
        let last = recent.last()?;
        let seconds = last.at_ms.saturating_sub(first.at_ms) as f64 / 1000.0;
        (seconds > 0.0).then(|| (read(last) - read(first)) / seconds)
    }

    /// Statements per second on one node.
    pub(super) fn node_rate(&self, node: usize) -> Option<f64> {
        self.rate(|point| point.nodes.get(node).map_or(0.0, |n| n.statements as f64))
    }

    /// Each way that statements took: its name, how many a second, and its share; the most
    /// frequent first, and at rest those that were the most frequent.
    pub(super) fn routes(&self) -> Vec<(String, Option<f64>, Option<f64>)> {
        let Some(point) = self.point() else {
            return Vec::new();
        };
        let mut found: Vec<(&String, u64, Option<f64>)> = point
            .routes
            .iter()
            .map(|(key, total)| {
                let read = |point: &Point| point.routes.get(key).copied().unwrap_or(0) as f64;
                (key, *total, self.rate(read))
            })
            .collect();
        let all: f64 = found.iter().filter_map(|(_, _, rate)| *rate).sum();
        found.sort_by(|(_, total, rate), (_, other_total, other_rate)| {
            let by_rate = other_rate.unwrap_or(0.0).total_cmp(&rate.unwrap_or(0.0));
            by_rate.then(other_total.cmp(total))
        });
        let named = found.into_iter().map(|(key, _, rate)| {
            let share = rate.filter(|_| all > 0.0).map(|rate| rate / all);
            (key.replacen('.', ": ", 1).replace('_', " "), rate, share)
        });
        named.collect()
    }

    /// Statements per second on the primary, or on standbys.
    pub(super) fn side(&self, side: &str) -> Option<f64> {
        self.rate(|point| {
            let of_side = point.routes.iter().filter(|(key, _)| key.starts_with(side));
            of_side.map(|(_, count)| *count as f64).sum()
        })
    }

    /// The latest percentiles on the primary (0) or on standbys (1), of the last two seconds.
    pub(super) fn latency(&self, side: usize) -> Percentiles {
        let recent = self.points.iter().rev().take(4);
        let mut known = recent.map(|point| point.latency[side.min(1)]);
        known
            .find(|latency| latency.p50.is_some())
            .unwrap_or_default()
    }

    /// The highest lag of each two seconds in milliseconds, the latest last, `wide` of them.
    pub(super) fn lags(&self, node: usize, wide: usize) -> Vec<Option<f64>> {
        const STEP: usize = 4;
        let lag = |point: &Point| point.nodes.get(node).and_then(|n: &NodePoint| n.lag_ms);
        let points: Vec<&Point> = self.points.iter().rev().take(wide * STEP).collect();
        let highest = |points: &[&Point]| points.iter().filter_map(|p| lag(p)).reduce(f64::max);
        let mut lags: Vec<Option<f64>> = points.chunks(STEP).map(highest).collect();
        lags.resize(wide, None);
        lags.reverse();
        lags
    }

    /// The connection in words.
    pub(super) fn connection(&self, now: Duration) -> (Weight, String) {
        match &self.link {
            Link::Connecting => (Weight::Warn, "connecting".to_owned()),
            Link::Live(_) => (Weight::Good, "live".to_owned()),
            Link::Lost {
                why,
                heard,
                again_at,
            } => {
                let again = again_at.saturating_sub(now).as_secs_f64().ceil();
                let again = match again {
                    0.0 => "trying again now".to_owned(),
                    seconds => format!("trying again in {seconds:.0} s"),
                };
                let since = heard.map(|heard| now.saturating_sub(heard).as_secs_f64());
                let since = since.map_or(String::new(), |s| format!(" for {}", format::long(s)));
                (Weight::Bad, format!("no connection{since}: {why}; {again}"))
            }
        }
    }

    /// How the cluster stands, in one line.
    pub(super) fn verdict(&self) -> (Weight, String) {
        let Some(status) = &self.status else {
            return (Weight::Warn, String::new());
        };
        let failover = status.failover.as_ref();
        let busy = failover.filter(|failover| failover.phase != "steady");
        let doing = busy.map_or(String::new(), |f| format!("; failover is {}", f.phase));
        let nodes = || status.nodes.iter();
        let Some(leader) = nodes().find(|node| Some(&node.name) == status.primary.as_ref()) else {
            let text = "No primary: statements that need one are held";
            return (Weight::Bad, format!("{text}{doing}"));
        };
        let off: Vec<String> = nodes()
            .filter(|node| node.state != "up")
            .map(|node| format!("{} is {}", node.name, node.state))
            .collect();
        if !off.is_empty() || busy.is_some() {
            let off = if off.is_empty() {
                String::new()
            } else {
                format!("; {}", off.join(", "))
            };
            return (Weight::Warn, format!("{} leads{off}{doing}", leader.name));
        }
        let standbys = nodes().filter(|node| {
            node.role.as_deref() == Some("standby") && node.timeline == leader.timeline
        });
        let text = format!(
            "All is well: {} leads on timeline {}; {} of {} standbys follow it",
            leader.name,
            leader.timeline.unwrap_or(0),
            standbys.count(),
            status.nodes.len().saturating_sub(1)
        );
        (Weight::Good, text)
    }
}
