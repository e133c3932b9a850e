//! Waiting for the client between batches, with an ear for the server that is held and for the end
//! of the proxy.

use std::task::Poll;

use super::digest::is_hot_standby;
use super::session::{Ending, Session};
use crate::backend::pool::Lease;
use crate::error::{Kind, Problem};
use crate::wire::frame::{Piece, Walker};

impl Session {
    /// Waits for more from the client; what a held server says meanwhile is passed on.
    pub(super) async fn listen(&mut self) -> Result<(), Ending> {
        let outlives = self.may_outlive_server();
        let Self {
            client,
            held,
            look_after,
            draining,
            worker,
            ..
        } = self;
        let mut server = held.as_mut().map(Lease::server);
        let ended = std::future::poll_fn(|cx| {
            if let Some(server) = &mut server {
                let read = server
                    .socket
                    .poll_read(cx, |bytes| whole_frames(bytes, outlives));
                match read {
                    Poll::Ready(Ok(Some(bytes))) => return Poll::Ready(Ok(Some(bytes))),
                    Poll::Ready(_) => return Poll::Ready(Err(Lost::Server)),
                    Poll::Pending => {}
                }
                if look_after.poll(cx) && !server.is_current(&worker.common.cluster.topology()) {
                    return Poll::Ready(Err(Lost::Server));
                }
            }
            if server.is_none() && draining.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Lost::Us));
            }
            match client.poll_fill(cx) {
                Poll::Ready(Ok(())) if client.ended => Poll::Ready(Err(Lost::Client)),
                Poll::Ready(Ok(())) => Poll::Ready(Ok(None)),
                Poll::Ready(Err(_)) => Poll::Ready(Err(Lost::Client)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match ended {
            Ok(None) => {
                if self.drop_bytes > 0 {
                    self.drop_data();
                }
                Ok(())
            }
            // Notices, notifications, or the server's farewell: whole messages, since it is idle.
            Ok(Some(bytes)) => self.tell(&bytes).await,
            Err(Lost::Client) => Err(Ending::Quiet),
            Err(Lost::Us) => Err(Ending::Problem(Problem::fatal(
                Kind::AdminShutdown,
                "terminating connection: causeway is shutting down",
            ))),
            Err(Lost::Server) if outlives => {
                self.transaction_lost();
                Ok(())
            }
            Err(Lost::Server) => {
                let node = self.held_node_name();
                self.slot.detach();
                if let Some(lease) = self.held.take() {
                    lease.discard();
                }
                Err(Ending::Problem(Problem::fatal(
                    Kind::ConnectionFailure,
                    format!("the server connection to node {node} that this session held was lost"),
                )))
            }
        }
    }
}

/// Takes whole frames only, so that the next batch's answer begins with a frame. What differs between
/// a standby and the primary is not the client's business.
fn whole_frames(bytes: &[u8], outlives: bool) -> (usize, Vec<u8>) {
    let mut walker = Walker::default();
    let mut at = 0;
    let mut kept = Vec::new();
    while let Ok(Some(Piece::Frame { tag, bytes })) = walker.next(bytes, &mut at, |_| false) {
        // A farewell is no news to a session that goes on.
        let ours = tag == b'S' && is_hot_standby(bytes) || tag == b'E' && outlives;
        if !ours {
            kept.extend_from_slice(bytes);
        }
    }
    (at, kept)
}

enum Lost {
    Client,
    Server,
    /// The proxy is ending.
    Us,
}
