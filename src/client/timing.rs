//! How long a client waits for its answers.

use std::time::Instant;

use super::batch::{Batch, End};
use super::session::{Ending, Session};

impl Session {
    /// Relays a batch, and counts the time from its arrival to the end of its answer. What the client
    /// itself draws out, such as COPY data or a Flush in the middle, is not counted.
    pub(super) async fn relay_timed(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let whole = matches!(batch.end, End::Query | End::Sync);
        let began = Instant::now();
        let result = self.relay_batch(batch).await;
        if whole
            && result.is_ok()
            && let Some(last) = &self.last_route
        {
            let metrics = &self.worker.common.metrics;
            metrics.took(last.route.primary, began.elapsed());
        }
        result
    }
}
