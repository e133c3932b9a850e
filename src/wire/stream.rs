//! The byte stream beneath a connection. What differs between kinds of streams is here and nowhere else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
}

impl Stream {
    /// Nagle's algorithm off, and keepalives on, so that an end that vanished without a word is noticed
    /// within about two minutes.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10))
            .with_retries(6);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self::Tcp(stream))
    }

    /// The other end's address.
    pub(super) fn peer(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr(),
        }
    }

    /// Moves the connection to the calling thread's event loop, which tokio lets no stream change: a second
    /// descriptor of it is registered there. A stream with state above its descriptor would have to be
    /// taken apart for this, and put together again.
    pub(super) fn adopt(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                let duplicate = std::os::fd::AsFd::as_fd(stream).try_clone_to_owned()?;
                *stream = TcpStream::from_std(std::net::TcpStream::from(duplicate))?;
            }
        }
        Ok(())
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, space),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Writes what can be written at once, or fails with `WouldBlock`.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
        }
    }

    /// Whether bytes, or the end of the stream, are waiting.
    pub(super) fn is_readable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(&mut cx).is_ready(),
        }
    }

    /// Waits for bytes or the end; whether it is the end, also while what was sent before has not been read.
    pub(super) async fn ends(&self) -> bool {
        match self {
            Self::Tcp(stream) => match stream.ready(Interest::READABLE).await {
                Ok(ready) => ready.is_read_closed(),
                Err(_) => true,
            },
        }
    }
}
