//! A connection read through a thread's shared scratch buffer.
//!
//! Buffers belong to bytes in flight, not to connections: an idle connection holds none.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::Connection;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::stream::Stream;

/// Read at once at most; also the largest frame that is ever looked at whole, with room to spare.
pub const SCRATCH: usize = 2 * super::frame::WHOLE;

/// A frame that answers a question of our own is never longer, in bytes: a setting can be this long.
const LONGEST_OWN: usize = 64 << 20;

thread_local! {
    // Sixteen KiB are enough for most reads, so that one page fault does not follow another.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// One connection, to a client or to a server.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    /// Bytes that arrived but could not be used yet: the beginning of a frame.
    carry: Vec<u8>,
}

impl Socket {
    /// Takes a connected stream.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::tcp(stream)?,
            carry: Vec::new(),
        })
    }

    /// TLS from here on, after a handshake that `connection` begins or awaits; what has arrived and was
    /// not consumed is the beginning of it.
    pub async fn secure(&mut self, connection: Connection) -> io::Result<()> {
        let arrived = self.take_rest();
        self.stream.secure(connection, arrived).await
    }

    /// The TLS that is spoken, if it is.
    pub fn tls(&self) -> Option<&Connection> {
        self.stream.tls()
    }

    /// Version, cipher and key exchange of the TLS that is spoken, if it is.
    pub fn encryption(&self) -> Option<String> {
        self.stream.encryption()
    }

    /// Whether something has arrived and was not consumed.
    pub fn has_rest(&self) -> bool {
        !self.carry.is_empty()
    }

    /// The other end's address.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer()
    }

    /// Moves the connection to the calling thread's event loop.
    pub fn adopt(&mut self) -> io::Result<()> {
        self.stream.adopt()
    }

    /// Reads what has arrived and lets `consume` see it, behind what it left over last time;
    /// `consume` says how many bytes it is done with. Zero bytes read give `None`: the other end
    /// has closed.
    pub fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        consume: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<Option<T>>> {
        BUFFER.with_borrow_mut(|buffer| {
            let kept = self.carry.len();
            // A frame that is still incomplete at this size is none that we wait for.
            if kept >= SCRATCH {
                return Poll::Ready(Err(io::Error::other("a frame does not fit the buffer")));
            }
            let mut space = ReadBuf::new(&mut buffer[kept..]);
            match self.stream.poll_read(cx, &mut space) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            let read = space.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
            let end = kept + read;
            buffer[..kept].copy_from_slice(&self.carry);
            let (used, result) = consume(&buffer[..end]);
            let left = &buffer[used.min(end)..end];
            self.carry.clear();
            if left.is_empty() {
                self.carry = Vec::new();
            } else {
                self.carry.extend_from_slice(left);
            }
            Poll::Ready(Ok(Some(result)))
        })
    }

    /// Reads until `consume` makes something of what has arrived, beginning with what an earlier
    /// read left over; for logins, not for relaying. None when the other end closes before.
    pub async fn read_buffered<T>(
        &mut self,
        consume: impl Fn(&[u8]) -> (usize, Option<T>),
    ) -> io::Result<Option<T>> {
        loop {
            if !self.carry.is_empty()
                && let (used, Some(result)) = consume(&self.carry)
            {
                self.carry.drain(..used.min(self.carry.len()));
                return Ok(Some(result));
            }
            if self.read(|_| (0, ())).await?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Lets `consume` see what an earlier read has left over, if it has; it says how much it is done with.
    pub fn again<T>(&mut self, consume: impl FnOnce(&[u8]) -> (usize, T)) -> Option<T> {
        if self.carry.is_empty() {
            return None;
        }
        let (used, result) = consume(&self.carry);
        self.carry.drain(..used.min(self.carry.len()));
        Some(result)
    }

    /// Takes what has arrived and was not consumed.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.carry)
    }

    /// Reads one whole frame; for logins and statements of our own, not for relaying.
    pub async fn next_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.take_carried_frame()? {
                return Ok(frame);
            }
            if !std::future::poll_fn(|cx| self.poll_more(cx)).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads once, behind what is kept, however much that is; false when the other end has closed.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        BUFFER.with_borrow_mut(|buffer| {
            // What is left behind a frame fits the buffer.
            let mut space = ReadBuf::new(&mut buffer[..SCRATCH / 2]);
            match self.stream.poll_read(cx, &mut space) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            self.carry.extend_from_slice(space.filled());
            Poll::Ready(Ok(!space.filled().is_empty()))
        })
    }

    /// Takes one complete frame off what `read` left over.
    fn take_carried_frame(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        match super::frame::peek(&self.carry) {
            Ok(Some((_, size))) if size > LONGEST_OWN => Err(io::Error::other(
                "an answer to a question of our own is too long",
            )),
            Ok(Some((tag, size))) if self.carry.len() >= size => {
                let rest = self.carry.split_off(size);
                Ok(Some((tag, std::mem::replace(&mut self.carry, rest))))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Whether bytes, or the end of the stream, are waiting on a connection that should be silent.
    pub fn has_something_to_say(&self) -> bool {
        !self.carry.is_empty() || self.stream.is_readable()
    }

    /// Resolves once the other end is gone, also while what it sent before has not been read; noticed
    /// within a second.
    pub async fn closed(&self) {
        while !self.stream.ends().await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Whether the other end is known to be gone at this moment, without asking the system.
    pub fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let ends = std::pin::pin!(self.stream.ends()).poll(&mut cx);
        matches!(ends, Poll::Ready(true))
    }

    /// Writes what can be written at once; gives the number of bytes written.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.try_write(&bytes[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Goes on writing `pending` from its front until it is empty.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pending: &mut Vec<u8>,
    ) -> Poll<io::Result<()>> {
        let mut written = 0;
        let result = loop {
            if written == pending.len() {
                break Poll::Ready(Ok(()));
            }
            match self.stream.poll_write(cx, &pending[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if written == pending.len() {
            *pending = Vec::new();
        } else {
            pending.drain(..written);
        }
        result
    }

    /// Writes all of `bytes`; the caller bounds the time.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.write_now(bytes)?;
        if written == bytes.len() {
            return Ok(());
        }
        let mut rest = bytes[written..].to_vec();
        std::future::poll_fn(|cx| self.poll_write(cx, &mut rest)).await
    }

    /// Reads once; the bytes stay for the next reader unless `consume` takes them.
    pub async fn read<T>(
        &mut self,
        mut consume: impl FnMut(&[u8]) -> (usize, T),
    ) -> io::Result<Option<T>> {
        std::future::poll_fn(|cx| self.poll_read(cx, &mut consume)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (near, _) = listener.accept().await.unwrap();
        (Socket::new(near).unwrap(), far)
    }

    #[tokio::test]
    async fn what_is_not_consumed_comes_again_in_front() {
        let (mut near, mut far) = pair().await;
        far.write_all(b"abc").await.unwrap();
        assert_eq!(
            near.read(|bytes| (1, bytes.to_vec()))
                .await
                .unwrap()
                .unwrap(),
            b"abc"
        );
        far.write_all(b"d").await.unwrap();
        assert_eq!(
            near.read(|bytes| (bytes.len(), bytes.to_vec()))
                .await
                .unwrap()
                .unwrap(),
            b"bcd"
        );
        assert_eq!(near.again(|bytes| (0, bytes.to_vec())), None);
        drop(far);
        assert!(near.read(|_| (0, ())).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn more_than_the_kernel_takes_is_written_in_the_end() {
        let (mut near, mut far) = pair().await;
        let sent = vec![7u8; 8 << 20];
        let expected = sent.len();
        let reader = tokio::spawn(async move {
            let mut received = 0;
            let mut buffer = vec![0; 1 << 16];
            while received < expected {
                received += tokio::io::AsyncReadExt::read(&mut far, &mut buffer)
                    .await
                    .unwrap();
            }
            received
        });
        near.write_all(&sent).await.unwrap();
        assert_eq!(reader.await.unwrap(), expected);
    }
}
