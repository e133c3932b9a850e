//! A connection that another session had is clean before this one's statements run on it: whatever was
//! left there, and whether or not anybody knows of it (docs/adr/0014-hand-over.md).

use std::sync::Arc;

use super::context::Context;
use crate::backend::own_query::OwnQueryError;
use crate::backend::server::Server;
use crate::backend::settings::reads_constants;
use crate::client::connection::OWN_BOUND;
use crate::client::connection::batch::Batch;
use crate::client::state::State;
use crate::core::mutant::all_hold;
use crate::core::plans::Constants;
use crate::core::statement::Effect;
use crate::core::tag::field;
use crate::wire::reply::error_field;

/// Cleans a connection that another session had, if need be, and makes this one's settings with that.
///
/// # Errors
///
/// When what is left cannot be taken away, the connection is unusable; the settings may be refused.
pub(super) async fn take_over(
    server: &mut Server,
    state: &State,
    context: &Context,
) -> Result<(), OwnQueryError> {
    let handed_over = server.used_by.as_ptr() != Arc::as_ptr(context.places.token());
    if !handed_over || !all_hold() {
        return Ok(());
    }
    let knowledge = context.database.knowledge();
    let harmless = server.traces.are_harmless(knowledge);
    if server.traces.are_unsure(knowledge) {
        server.plans.note(Constants::ByAnything, || None);
    }
    let suit = server.plans.suit(|| state.settings().constants());
    // Where no function has such a literal, nobody can have left it in a plan.
    let with_plans = !suit && context.database.keeps_constants();
    if harmless && !with_plans {
        return Ok(());
    }
    server.clean(state.settings(), with_plans, OWN_BOUND).await
}

/// Whether the session needs a process that has not used temporary tables: for one that has, the size of their
/// buffers is settled for good.
pub(super) fn wants_unworn(server: &Server, state: &State, batch: &Batch) -> bool {
    const BUFFERS: &str = "temp_buffers";
    if !server.worn {
        return false;
    }
    let wanted = state.settings().value(BUFFERS);
    let applied = server.applied.as_ref();
    let has = applied.is_some_and(|applied| applied.value(BUFFERS) == wanted);
    let sets = |effect: &Effect| matches!(effect, Effect::Set { name, sql: Some(_), .. } if &**name == BUFFERS);
    wanted.is_some() && !has || batch.effects().any(sets)
}

/// Whether a setting may be refused for what the process has done before: as a value that is invalid there. A
/// privilege that is lacking is lacking everywhere.
pub(super) fn is_of_process(server: &Server, refusal: &[u8]) -> bool {
    const INVALID_PARAMETER_VALUE: &[u8] = b"22023";
    server.worn && error_field(refusal, field::SQLSTATE) == Some(INVALID_PARAMETER_VALUE)
}

/// A batch is about to be sent: what it may leave.
pub(in crate::client) fn note(server: &mut Server, state: &State, batch: &Batch) {
    server.traces.note(batch.may_run_code, batch.knowledge);
    server.worn |= batch.may_run_code;
    server.plans.note(batch.settled, || {
        let changes = |effect: &Effect| match effect {
            Effect::Set { name, .. } => reads_constants(name),
            Effect::ResetAll | Effect::DiscardAll => true,
            _ => false,
        };
        let unsure = state.is_in_doubt() || batch.effects().any(changes);
        (!unsure).then(|| state.in_force().constants())
    });
}

/// The session is over: what its code may have left on connections that it gave back, such as a lock, is
/// in nobody's way until they are lent again.
pub(in crate::client) async fn take_along(context: &Context) {
    for pool in context.places.pools().filter(|_| all_hold()) {
        let worker = context.worker.index;
        while let Some(mut lease) = pool.take_left(worker, context.places.token()) {
            match lease
                .server()
                .clean(&Arc::default(), false, OWN_BOUND)
                .await
            {
                Ok(()) => {}
                Err(_) => lease.discard(),
            }
        }
    }
}
