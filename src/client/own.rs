//! Statements that are answered here: `SET`, `RESET` and `SHOW` of `causeway.…`, and `DEALLOCATE` of
//! what the client has prepared by the protocol.

use super::batch::{Batch, End, Message};
use super::names::Names;
use super::session::{Ending, Session};
use super::track::Track;
use crate::core::exchange::TransactionStatus;
use crate::core::session::Level;
use crate::core::statement::Effect;
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;

pub(super) const PARSE_COMPLETE: &[u8] = &[b'1', 0, 0, 0, 4];
pub(super) const BIND_COMPLETE: &[u8] = &[b'2', 0, 0, 0, 4];
pub(super) const CLOSE_COMPLETE: &[u8] = &[b'3', 0, 0, 0, 4];
pub(super) const NO_DATA: &[u8] = &[b'n', 0, 0, 0, 4];
const NO_PARAMETERS: &[u8] = &[b't', 0, 0, 0, 6, 0, 0];

/// What answering needs of the session.
pub(super) struct Desk<'a> {
    pub(super) track: &'a mut Track,
    pub(super) names: &'a mut Names,
    /// What `SHOW causeway.last_route` says.
    pub(super) last_route: &'a str,
    /// An error here does not abort a transaction: the server knows nothing of it.
    pub(super) status: TransactionStatus,
}

impl Session {
    /// Answers a batch of which everything is answered here.
    pub(super) async fn answer_own(
        &mut self,
        batch: &Batch,
        status: TransactionStatus,
    ) -> Result<(), Ending> {
        let last_route = match &self.last_route {
            Some(last) => last.describe(&self.node_name(last.route.node.0)),
            None => "nothing has been routed yet".to_owned(),
        };
        let mut desk = Desk {
            track: &mut self.track,
            names: &mut self.names,
            last_route: &last_route,
            status,
        };
        let (reply, failed) = desk.answer(batch);
        if failed && batch.end == End::Flush {
            self.skipping = true;
        }
        self.client.consume(batch.length);
        self.names.confirm_all();
        self.tell(reply.as_bytes()).await
    }
}

impl Desk<'_> {
    /// Answers a batch of which everything is answered here. True when it brought an error.
    pub(super) fn answer(&mut self, batch: &Batch) -> (Reply, bool) {
        let mut reply = Reply::new();
        let mut bound: Vec<Effect> = Vec::new();
        for message in &batch.messages {
            let known = message.prepared.as_ref();
            let effects = known.map(|prepared| {
                let steps = prepared.statement.effects.iter();
                steps.map(|step| step.effect.clone()).collect::<Vec<_>>()
            });
            let step = match message.tag {
                b'Q' => self
                    .run(&batch.effects, true)
                    .map(|rows| rows.ready(self.status)),
                b'P' => Ok(Reply::new().raw(PARSE_COMPLETE)),
                b'B' => {
                    bound = effects.unwrap_or_default();
                    Ok(Reply::new().raw(BIND_COMPLETE))
                }
                b'D' => Ok(describe(message, effects.as_ref().unwrap_or(&bound))),
                b'E' => self.run(&bound, false),
                b'C' => Ok(Reply::new().raw(CLOSE_COMPLETE)),
                b'S' => Ok(Reply::new().ready(self.status)),
                _ => Ok(Reply::new()),
            };
            match step {
                Ok(step) => reply = reply.raw(step.as_bytes()),
                Err(problem) => {
                    let reply = reply.error(&problem);
                    let synced = !matches!(batch.messages.last(), Some(Message { tag: b'H', .. }));
                    return (
                        if synced {
                            reply.ready(self.status)
                        } else {
                            reply
                        },
                        true,
                    );
                }
            }
        }
        (reply, false)
    }

    fn run(&mut self, effects: &[Effect], simple: bool) -> Result<Reply, Problem> {
        if self.status == TransactionStatus::Failed {
            return Err(Problem::error(
                Kind::InFailedTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        let mut reply = Reply::new();
        for effect in effects {
            reply = match effect {
                Effect::SetOwn { local: true, .. } if self.status == TransactionStatus::Idle => {
                    let warning = Problem::error(
                        Kind::NoActiveTransaction,
                        "SET LOCAL can only be used in transaction blocks",
                    );
                    reply.warning(&warning).complete("SET")
                }
                Effect::SetOwn { name, value, local } => {
                    set(self.track, name, value.as_deref(), *local)?;
                    reply.complete(if value.is_some() { "SET" } else { "RESET" })
                }
                Effect::ShowOwn(name) => {
                    let value = show(self.track, name, self.last_route)?;
                    let column = format!("causeway.{name}");
                    let reply = if simple {
                        reply.columns(&[&column])
                    } else {
                        reply
                    };
                    reply.row(&[&value]).complete("SHOW")
                }
                Effect::Deallocate(Some(name)) => {
                    self.names.close(name.as_bytes());
                    reply.complete("DEALLOCATE")
                }
                _ => reply,
            };
        }
        Ok(reply)
    }
}

fn describe(message: &Message, effects: &[Effect]) -> Reply {
    let reply = Reply::new();
    let reply = if message.prepared.is_some() {
        reply.raw(NO_PARAMETERS)
    } else {
        reply
    };
    match effects {
        [Effect::ShowOwn(name)] => reply.columns(&[&format!("causeway.{name}")]),
        _ => reply.raw(NO_DATA),
    }
}

/// Changes one of our settings.
pub(super) fn set(
    track: &mut Track,
    name: &str,
    value: Option<&str>,
    local: bool,
) -> Result<(), Problem> {
    match name {
        "consistency" => {
            let level = value.map(str::parse::<Level>).transpose().map_err(|_| {
                Problem::error(
                    Kind::InvalidParameterValue,
                    format!(
                        "invalid value for parameter \"causeway.consistency\": \"{}\"",
                        value.unwrap_or_default()
                    ),
                )
                .with_hint("Available values: eventual, session, primary.")
            })?;
            track.set_level(level, local);
            Ok(())
        }
        "last_route" => Err(Problem::error(
            Kind::CantChangeRuntimeParam,
            "parameter \"causeway.last_route\" cannot be changed",
        )),
        _ => Err(unknown(name)),
    }
}

fn show(track: &Track, name: &str, last_route: &str) -> Result<String, Problem> {
    match name {
        "consistency" => Ok(track.level().name().to_owned()),
        "last_route" => Ok(last_route.to_owned()),
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Problem {
    Problem::error(
        Kind::UndefinedObject,
        format!("unrecognized configuration parameter \"causeway.{name}\""),
    )
    .with_hint("Causeway knows causeway.consistency and causeway.last_route.")
}
