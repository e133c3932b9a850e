//! The operator's console, `psql -p 6432 causeway`: PgBouncer's commands, and some of our own.

mod cluster;
mod pooler;
#[cfg(test)]
mod tests;

use super::State;
use super::command::{Refused, carry_out};
use crate::console::{Answer, Answering, Console};
use crate::desk::Ask;
use crate::error::{Kind, Problem};

/// Makes a table.
type Show = fn(&State) -> Answer;

/// What can be shown, and by whom.
const SHOWN: [(&str, Show); 13] = [
    ("NODES", cluster::nodes),
    ("LAG", cluster::lag),
    ("FAILOVER", cluster::failover),
    ("EVENTS", cluster::events),
    ("POOLS", pooler::pools),
    ("CLIENTS", pooler::clients),
    ("SERVERS", pooler::servers),
    ("DATABASES", pooler::databases),
    ("STATS", pooler::stats),
    ("LISTS", pooler::lists),
    ("CONFIG", pooler::config),
    ("VERSION", version),
    ("HELP", |_| help()),
];

/// What can be ordered.
const ORDERS: [(&str, &str); 3] = [
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
    Order(Ask, Option<String>),
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
                Command::Order(ask, to) => {
                    let from = format!("{user} on the console");
                    let stall = carry_out(self, ask, to.as_deref(), &from).await;
                    stall
                        .map_err(|refused| problem(&refused))
                        .map(|stall| Answer {
                            columns: vec!["result", "held_ms"],
                            rows: vec![vec![
                                Some("done".to_owned()),
                                Some(format!("{:.1}", stall.as_secs_f64() * 1000.0)),
                            ]],
                            tag: tag(ask),
                        })
                }
                Command::Shutdown => {
                    tracing::info!(user, "shutdown ordered on the console");
                    self.shutdown.cancel();
                    Ok(Answer {
                        tag: "SHUTDOWN",
                        ..Answer::default()
                    })
                }
                Command::Ignored => Ok(Answer {
                    tag: "SET",
                    ..Answer::default()
                }),
            }
        })
    }
}

fn tag(ask: Ask) -> &'static str {
    match ask {
        Ask::Switchover => "SWITCHOVER",
        Ask::Failover => "FAILOVER",
    }
}

fn parse(text: &str) -> Result<Command, Problem> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    let order = |ask, rest: &[&str]| match rest {
        [] => Ok(Command::Order(ask, None)),
        ["TO", _] => {
            let name = words.get(2).map(|name| name.trim_matches('"').to_owned());
            Ok(Command::Order(ask, name))
        }
        _ => Err(unknown(text)),
    };
    match upper.as_slice() {
        ["SHOW", name] => {
            let found = SHOWN.iter().position(|(known, _)| known == name);
            found.map(Command::Show).ok_or_else(|| unknown(text))
        }
        ["SWITCHOVER", rest @ ..] => order(Ask::Switchover, rest),
        ["FAILOVER", rest @ ..] => order(Ask::Failover, rest),
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
