//! What has to be done on a server connection before a batch is sent to it.

use super::hearing;
use crate::client::attachment::context::Context;
use crate::client::attachment::routing::Failure;
use crate::client::attachment::{self, Attachment, channels, constants, moving, shapes};
use crate::client::connection::batch::Batch;
use crate::client::outcome::resolve;
use crate::client::state::State;

/// Has the connection know what the batch builds on.
pub(super) async fn make(
    held: &mut Attachment,
    state: &State,
    context: &mut Context,
    batch: &Batch,
) -> Result<(), Failure> {
    attachment::sync_held(held, state, batch).await?;
    channels::expose(held, state, batch).await?;
    attachment::expose_names(held, state, context, batch).await?;
    constants::parse_as_of_then(held, state, batch).await?;
    shapes::check(held, batch).await?;
    attachment::prepare_before_begin(held, batch).await?;
    moving::refuse_stuck(held, state, batch).await?;
    attachment::disown_numbers(held, state, context, batch).await?;
    if batch.may_notify() && held.is_primary() {
        hearing::speak(held, context).await;
    }
    let resolves = context.places.bounds().resolves_commits;
    resolve::identify(held, batch, resolves).await
}

/// Whether nothing of the session, nor of the batch, is on the connection yet: should it be lost, another does as well.
pub(super) fn is_fresh(held: &Attachment, state: &State, context: &Context) -> bool {
    held.unit.just_placed && state.pins().is_empty() && !context.is_session_pooled()
}
