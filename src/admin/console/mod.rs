//! The operator's console, `psql -p 6432 causeway`: PgBouncer's commands, and some of our own.

mod cluster;
mod pooler;
#[cfg(test)]
mod tests;

use super::State;
use super::command::{Refused, carry_out};
use super::upkeep::{self, Drain};
use crate::core::failover::record::RequestKind;
use crate::error::{Kind, Problem};
use crate::shared::admin::{Answer, Answering, Console};
use crate::shared::maintenance::{NotReloaded, Reloaded};

type Show = fn(&State) -> Answer;

/// What can be shown, and by whom.
const SHOWN: [(&str, Show); 15] = [
    ("NODES", cluster::nodes),
    ("LAG", cluster::lag),
    ("FAILOVER", cluster::failover),
    ("EVENTS", cluster::events),
    ("POOLS", pooler::pools),
    ("CLIENTS", pooler::clients),
    ("SERVERS", pooler::servers),
    ("DATABASES", pooler::databases),
    ("STATS", pooler::stats),
    ("STATS_TOTALS", pooler::stats_totals),
    ("LISTS", pooler::lists),
    ("MEM", pooler::mem),
    ("CONFIG", pooler::config),
    ("VERSION", version),
    ("HELP", |_| help()),
];

/// What can be ordered.
const ORDERS: [(&str, &str); 10] = [
    (
        "RELOAD",
        "read the configuration again; a file with faults changes nothing",
    ),
    (
        "PAUSE [database]",
        "let clients wait with their next transaction, until server connections are closed",
    ),
    ("RESUME [database]", "let them go on"),
    (
        "DRAIN node",
        "keep new reads from a standby, and close its idle connections",
    ),
    ("UNDRAIN node", "let it have reads again"),
    (
        "PAUSE FAILOVER",
        "promote nobody whatever fails; leases go on being renewed",
    ),
    ("RESUME FAILOVER", "promote again when a primary fails"),
    (
        "SWITCHOVER [TO node]",
        "hand the primary's role over, without loss",
    ),
    (
        "FAILOVER [TO node]",
        "replace the primary now, and accept the loss that was spoken of",
    ),
    (
        "SHUTDOWN",
        "end this proxy: no new clients, transactions may end, then it is gone",
    ),
];

/// A command, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    /// The place in `SHOWN`.
    Show(usize),
    Order(RequestKind, Option<String>),
    Reload,
    Pause(Option<String>),
    Resume(Option<String>),
    /// A standby, and whether new reads are to be kept from it.
    Drain(String, bool),
    Shutdown,
    /// Settings that drivers send of their own accord; they change nothing here.
    Ignored,
}

impl Console for State {
    fn run<'a>(&'a self, user: &'a str, command: &'a str) -> Answering<'a> {
        Box::pin(async move {
            match parse(command)? {
                Command::Show(index) => {
                    Ok(SHOWN.get(index).map_or_else(help, |(_, show)| show(self)))
                }
                Command::Order(kind, to) => {
                    let stall = carry_out(self, kind, to.as_deref(), &from(user)).await;
                    stall
                        .map_err(|refused| problem(&refused))
                        .map(|stall| Answer {
                            columns: vec!["result", "held_ms"],
                            rows: vec![vec![
                                Some("done".to_owned()),
                                Some(format!("{:.1}", stall.as_secs_f64() * 1000.0)),
                            ]],
                            tag: tag(kind),
                        })
                }
                Command::Reload => match upkeep::reload(self, &from(user)).await {
                    Ok(reloaded) => Ok(told(reloaded)),
                    Err(not) => Err(not_reloaded(&not)),
                },
                Command::Pause(database) => {
                    let paused = upkeep::pause(self, database.as_deref(), &from(user)).await;
                    paused.map(|()| done("PAUSE")).map_err(|no| refused(&no))
                }
                Command::Resume(database) => {
                    let resumed = upkeep::resume(self, database.as_deref(), &from(user));
                    resumed.map(|()| done("RESUME")).map_err(|no| refused(&no))
                }
                Command::Drain(node, on) => {
                    let drained = upkeep::drain(self, &node, on, &from(user));
                    let drained = drained.map_err(|no| refused(&no))?;
                    Ok(drain(node, drained, on))
                }
                Command::Shutdown => {
                    tracing::info!(user, "shutdown ordered on the console");
                    self.shutdown.cancel();
                    Ok(done("SHUTDOWN"))
                }
                Command::Ignored => Ok(done("SET")),
            }
        })
    }
}

/// Who gives an order, for the log.
fn from(user: &str) -> String {
    format!("{user} on the console")
}

/// An answer without rows.
fn done(tag: &'static str) -> Answer {
    Answer {
        tag,
        ..Answer::default()
    }
}

/// What became of each key that differs.
fn told(reloaded: Reloaded) -> Answer {
    let row = |outcome: &'static str| move |key: String| vec![Some(key), text(outcome)];
    let applied = reloaded.applied.into_iter().map(row("applied"));
    let restart = reloaded.restart.into_iter().map(row("needs a restart"));
    Answer {
        columns: vec!["key", "outcome"],
        rows: applied.chain(restart).collect(),
        tag: "RELOAD",
    }
}

fn not_reloaded(not: &NotReloaded) -> Problem {
    let what = "the configuration was not reloaded; nothing has changed";
    Problem::error(Kind::ConfigFileError, what).with_detail(not.to_string())
}

fn drain(node: String, drain: Option<Drain>, on: bool) -> Answer {
    let connections = drain.map(|drain| drain.connections);
    Answer {
        columns: vec!["node", "state", "connections"],
        rows: vec![vec![
            Some(node),
            text(drain.map_or("takes reads", |drain| drain.state)),
            maybe(connections),
        ]],
        tag: if on { "DRAIN" } else { "UNDRAIN" },
    }
}

fn refused(refused: &upkeep::Refused) -> Problem {
    let kind = match refused {
        upkeep::Refused::NoSuchNode(_) => Kind::UndefinedObject,
        upkeep::Refused::IsPrimary(_) | upkeep::Refused::Not(_) => Kind::NotInPrerequisiteState,
        upkeep::Refused::TooLong(_) => Kind::ObjectInUse,
    };
    let problem = Problem::error(kind, refused.text());
    match refused.hint() {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

fn tag(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Switchover => "SWITCHOVER",
        RequestKind::Failover => "FAILOVER",
        RequestKind::Pause => "PAUSE",
        RequestKind::Resume => "RESUME",
    }
}

fn parse(text: &str) -> Result<Command, Problem> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    // As it was written, without quotes.
    let name = |index: usize| {
        let name = words.get(index).copied().unwrap_or_default();
        name.trim_matches('"').to_owned()
    };
    let order = |kind, rest: &[&str]| match rest {
        [] => Ok(Command::Order(kind, None)),
        ["TO", _] => Ok(Command::Order(kind, Some(name(2)))),
        _ => Err(unknown(text)),
    };
    match upper.as_slice() {
        ["SHOW", name] => {
            let found = SHOWN.iter().position(|(known, _)| known == name);
            found.map(Command::Show).ok_or_else(|| unknown(text))
        }
        ["SWITCHOVER", rest @ ..] => order(RequestKind::Switchover, rest),
        ["FAILOVER", rest @ ..] => order(RequestKind::Failover, rest),
        ["RELOAD"] => Ok(Command::Reload),
        ["PAUSE", "FAILOVER"] => Ok(Command::Order(RequestKind::Pause, None)),
        ["RESUME", "FAILOVER"] => Ok(Command::Order(RequestKind::Resume, None)),
        ["PAUSE"] => Ok(Command::Pause(None)),
        ["PAUSE", _] => Ok(Command::Pause(Some(name(1)))),
        ["RESUME"] => Ok(Command::Resume(None)),
        ["RESUME", _] => Ok(Command::Resume(Some(name(1)))),
        ["DRAIN", _] => Ok(Command::Drain(name(1), true)),
        ["UNDRAIN", _] => Ok(Command::Drain(name(1), false)),
        ["SHUTDOWN"] => Ok(Command::Shutdown),
        ["SET", _, ..] => Ok(Command::Ignored),
        _ => Err(unknown(text)),
    }
}

fn unknown(text: &str) -> Problem {
    let start: String = text.trim().chars().take(60).collect();
    Problem::error(
        Kind::SyntaxError,
        format!("the console does not know the command \"{start}\""),
    )
    .with_hint("SHOW HELP lists its commands.")
}

fn problem(refused: &Refused) -> Problem {
    let kind = match refused {
        Refused::NoSuchNode(_) => Kind::UndefinedObject,
        Refused::Busy(_) => Kind::ObjectInUse,
        Refused::NoFailover | Refused::Not(_) | Refused::TooLong => Kind::NotInPrerequisiteState,
    };
    Problem::error(kind, refused.text())
}

/// An answer to SHOW.
fn table(columns: Vec<&'static str>, rows: Vec<Vec<Option<String>>>) -> Answer {
    Answer {
        columns,
        rows,
        tag: "SHOW",
    }
}

/// A value as text.
fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// A value that may be missing.
fn maybe(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn help() -> Answer {
    let shown = SHOWN
        .iter()
        .map(|(name, _)| vec![text(format!("SHOW {name}")), None]);
    let orders = ORDERS
        .iter()
        .map(|(name, what)| vec![text(name), text(what)]);
    table(vec!["command", "what"], shown.chain(orders).collect())
}

fn version(_: &State) -> Answer {
    let version = format!("Causeway {}", env!("CARGO_PKG_VERSION"));
    table(vec!["version"], vec![vec![Some(version)]])
}
