//! Statements that are answered here: `SET`, `RESET` and `SHOW` of `causeway.…`, and `DEALLOCATE` of
//! what the client has prepared by the protocol.

use crate::client::attachment::context::Context;
use crate::client::connection::batch::Batch;
use crate::client::connection::message::Message;
use crate::client::state::State;
use crate::core::exchange::TransactionStatus;
use crate::core::session::Level;
use crate::core::statement::Effect;
use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::wire::frame;
use crate::wire::reply::Reply;

/// The answer to a batch of which everything is answered here, and whether it is an error, which breaks the
/// transaction that is open.
pub(super) fn answer(
    state: &mut State,
    context: &Context,
    batch: &Batch,
    status: TransactionStatus,
) -> (Reply, bool) {
    let last_route = match &state.last_route {
        Some(last) => last.describe(&context.node_name(last.route.node.0)),
        None => "nothing has been routed yet".to_owned(),
    };
    let mut local = Local {
        state,
        last_route: &last_route,
        status,
    };
    let (reply, failed) = local.answer(batch);
    state.names.confirm_all();
    (reply, failed)
}

/// What answering needs of the session.
struct Local<'a> {
    state: &'a mut State,
    /// What `SHOW causeway.last_route` says.
    last_route: &'a str,
    status: TransactionStatus,
}

impl Local<'_> {
    /// Answers a batch of which everything is answered here. True when it brought an error.
    fn answer(&mut self, batch: &Batch) -> (Reply, bool) {
        let mut reply = Reply::new();
        let mut bound: Vec<Effect> = Vec::new();
        for message in &batch.messages {
            let known = message.prepared.as_ref();
            let effects = known.map(|prepared| {
                let statement = prepared.statement();
                let steps = statement.effects.iter();
                steps.map(|step| step.effect.clone()).collect::<Vec<_>>()
            });
            let step = match message.tag {
                frontend::QUERY => self
                    .run(&batch.effects().cloned().collect::<Vec<_>>(), true)
                    .map(|rows| rows.ready(self.status)),
                frontend::PARSE => Ok(Reply::new().raw(frame::PARSE_COMPLETE)),
                frontend::BIND => {
                    bound = effects.unwrap_or_default();
                    Ok(Reply::new().raw(frame::BIND_COMPLETE))
                }
                frontend::DESCRIBE => Ok(describe(message, effects.as_ref().unwrap_or(&bound))),
                frontend::EXECUTE => self.run(&bound, false),
                frontend::CLOSE => Ok(Reply::new().raw(frame::CLOSE_COMPLETE)),
                frontend::SYNC => Ok(Reply::new().ready(self.status)),
                _ => Ok(Reply::new()),
            };
            match step {
                Ok(step) => reply = reply.raw(step.as_bytes()),
                Err(problem) => {
                    if self.status == TransactionStatus::InTransaction {
                        self.status = TransactionStatus::Failed;
                    }
                    let reply = reply.error(&problem);
                    let synced = matches!(
                        batch.messages.last(),
                        Some(Message {
                            tag: frontend::SYNC | frontend::QUERY,
                            ..
                        })
                    );
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
                    set(self.state, name, value.as_deref(), *local)?;
                    reply.complete(if value.is_some() { "SET" } else { "RESET" })
                }
                Effect::ShowOwn(name) => {
                    let value = show(self.state, name, self.last_route)?;
                    let column = format!("causeway.{name}");
                    let reply = if simple {
                        reply.columns(&[&column])
                    } else {
                        reply
                    };
                    reply.row(&[&value]).complete("SHOW")
                }
                Effect::Deallocate(Some(name)) => {
                    self.state.names.close(name.as_bytes());
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
        reply.raw(frame::NO_PARAMETERS)
    } else {
        reply
    };
    match effects {
        [Effect::ShowOwn(name)] => reply.columns(&[&format!("causeway.{name}")]),
        _ => reply.raw(frame::NO_DATA),
    }
}

/// A setting of ours in a startup packet: only the level can be chosen there.
pub(in crate::client) fn startup_level(name: &str, value: &str) -> Result<Level, Problem> {
    match name {
        "consistency" => level(value),
        "last_route" => Err(read_only()),
        _ => Err(unknown(name)),
    }
}

fn level(value: &str) -> Result<Level, Problem> {
    value.parse::<Level>().map_err(|_| {
        Problem::error(
            Kind::InvalidParameterValue,
            format!("invalid value for parameter \"causeway.consistency\": \"{value}\""),
        )
        .with_hint("Available values: eventual, session, primary.")
    })
}

fn read_only() -> Problem {
    Problem::error(
        Kind::CantChangeRuntimeParam,
        "parameter \"causeway.last_route\" cannot be changed",
    )
}

/// Changes one of our settings.
fn set(state: &mut State, name: &str, value: Option<&str>, local: bool) -> Result<(), Problem> {
    match name {
        "consistency" => {
            let level = value.map(level).transpose()?;
            state.set_level(level, local);
            Ok(())
        }
        "last_route" => Err(read_only()),
        _ => Err(unknown(name)),
    }
}

fn show(state: &State, name: &str, last_route: &str) -> Result<String, Problem> {
    match name {
        "consistency" => Ok(state.level().name().to_owned()),
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
