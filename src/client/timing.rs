//! How long a client waits for its answers.

use std::time::Instant;

use super::batch::{Batch, End};
use super::session::{Ending, Session};
use crate::core::exchange::TransactionStatus;

impl Session {
    /// Relays a batch, and counts the time from its arrival to the end of its answer. What the client
    /// itself draws out, such as COPY data or a Flush in the middle, is not counted.
    pub(super) async fn relay_timed(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let whole = matches!(batch.end, End::Query | End::Sync);
        let began = Instant::now();
        self.entry.begin();
        let result = self.relay_batch(batch).await;
        let took = began.elapsed();
        let over = self.status() == TransactionStatus::Idle;
        self.entry.end(took, over);
        if whole
            && result.is_ok()
            && let Some(last) = &self.last_route
        {
            let metrics = &self.worker.common.metrics;
            metrics
                .routing
                .took(self.worker.index, last.route.primary, took);
        }
        result
    }
}
