//! Log lines to standard error, as text or JSON. A line that repeats itself is written a few times
//! and then counted (`limit`), so that neither a node that is down nor a storm of clients floods the
//! log. Lines are of one kind when they come from the same place in the source and agree in the
//! fields of `TELLING`.

pub mod limit;

use std::fmt::{self, Write};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};
use limit::{Limit, More};

/// Fields by which lines from one place differ in kind. None of them takes a value that a client
/// chooses.
const TELLING: [&str; 8] = [
    "node",
    "sqlstate",
    "code",
    "phase",
    "event",
    "doing",
    // The place of a line that a library has written by way of the crate `log`.
    "log.target",
    "log.line",
];
/// The target of the lines that tell a number; they are not counted themselves.
const MORE: &str = "pgcauseway::logging::more";
/// How often it is looked whether a number is due.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of a line's message that are kept for its number.
const MOST_BYTES: usize = 200;

/// Lines are being written.
#[derive(Debug)]
pub struct Lines {
    limited: Limited,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Changes what is logged: takes a filter as `log.filter` has it.
pub type Switch = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Lines are being written and counted; dropped, it tells what has not been told yet.
#[derive(Debug)]
pub struct Counted {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Sends log lines to standard error, as configured. What is held back is told once
/// [`Lines::count`] has been called.
pub fn start(log: &Log) -> Lines {
    let limited = Limited {
        limit: Arc::default(),
        started: Instant::now(),
    };
    let filter = filter(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(limited.clone())
        .with(lines)
        .init();
    Lines {
        limited,
        filter: handle,
    }
}

/// What servers have to say on connections of our own, such as that they shut down, is seen by its
/// effect; a filter that names the target itself is stronger.
fn filter(given: &str) -> Result<EnvFilter, ParseError> {
    match given {
        "off" => EnvFilter::try_new("off"),
        given => EnvFilter::try_new(format!("tokio_postgres=warn,{given}")),
    }
}

impl Lines {
    /// What changes the filter while lines are being written.
    pub fn switch(&self) -> Switch {
        let handle = self.filter.clone();
        Arc::new(move |filter| {
            let filter = self::filter(filter).map_err(|error| error.to_string())?;
            handle.reload(filter).map_err(|error| error.to_string())
        })
    }

    /// Tells from now on how many lines were held back, from a thread of its own.
    pub fn count(self) -> Counted {
        let (stop, stopped) = mpsc::channel();
        let tell = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                self.limited.tell(Limit::due);
            }
            self.limited.tell(Limit::rest);
        };
        let thread = std::thread::Builder::new()
            .name("causeway-log".to_owned())
            .spawn(tell);
        if let Err(error) = &thread {
            tracing::warn!(%error, "lines that repeat themselves are dropped uncounted");
        }
        Counted {
            stop: Some(stop),
            thread: thread.ok(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Holds lines back. A layer, not a layer's filter: one of those that refuses an event leaves its mark
/// on the next (tracing-subscriber 0.3).
#[derive(Clone, Debug)]
struct Limited {
    limit: Arc<Mutex<Limit<Kind, Look>>>,
    started: Instant,
}

/// Where a line comes from, and its telling fields.
type Kind = (Identifier, String);

/// What a line looks like.
#[derive(Debug)]
struct Look {
    level: Level,
    message: String,
    telling: String,
}

impl Limited {
    fn tell(&self, take: fn(&mut Limit<Kind, Look>, Duration) -> Vec<More<Look>>) {
        let told = take(&mut self.limit.lock(), self.started.elapsed());
        for more in told {
            more.first.tell(more.count, more.within);
        }
    }
}

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Who asks for more than `info` wants to see every line.
        if *metadata.level() > Level::INFO || metadata.target() == MORE {
            return true;
        }
        let mut telling = Telling::default();
        event.record(&mut telling);
        let kind = (metadata.callsite(), telling.0.clone());
        let look = || {
            let mut message = Message::default();
            event.record(&mut message);
            Look {
                level: *metadata.level(),
                message: message.0,
                telling: telling.0,
            }
        };
        self.limit.lock().admit(kind, self.started.elapsed(), look)
    }
}

impl Look {
    fn tell(&self, more: u64, within: Duration) {
        let seconds = within.as_secs_f64().round().max(1.0);
        let Self {
            level,
            message,
            telling,
        } = self;
        let of = Some(telling.as_str()).filter(|telling| !telling.is_empty());
        // The level is part of the place in the source.
        macro_rules! tell {
            ($level:expr) => {
                tracing::event!(
                    target: MORE, $level, more, of,
                    "{message}: {more} more in the last {seconds} s"
                )
            };
        }
        match *level {
            Level::ERROR => tell!(Level::ERROR),
            Level::WARN => tell!(Level::WARN),
            _ => tell!(Level::INFO),
        }
    }
}

/// Gathers the telling fields: `node=pg1 sqlstate=53300`.
#[derive(Debug, Default)]
struct Telling(String);

impl Visit for Telling {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if TELLING.contains(&field.name()) {
            let space = if self.0.is_empty() { "" } else { " " };
            let _ = write!(self.0, "{space}{}={value:?}", field.name());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[derive(Debug, Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
            let mut end = self.0.len().min(MOST_BYTES);
            while !self.0.is_char_boundary(end) {
                end -= 1;
            }
            self.0.truncate(end);
        }
    }
}
