//! Sending a cancel request to a server (manual, "Canceling Requests in Progress").

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::CancelTarget;

/// Delivers a cancel request and waits until the server has acted on it, which it says by closing.
pub async fn send(target: &CancelTarget, bound: Duration) -> io::Result<()> {
    let deliver = async {
        let mut stream = TcpStream::connect(target.address).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(target.process, target.key, &mut request);
        stream.write_all(&request).await?;
        let mut nothing = [0; 1];
        // The server answers nothing; whatever ends the connection ends the wait.
        let _ = stream.read(&mut nothing).await;
        Ok(())
    };
    tokio::time::timeout(bound, deliver)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
