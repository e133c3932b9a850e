//! A client of HTTP on a connection that the caller opens, secures and bounds.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// What sends requests, one after the other.
pub(crate) struct Sender(http1::SendRequest<Full<Bytes>>);

/// What carries them while it is polled.
pub(crate) type Carrier<S> = http1::Connection<TokioIo<S>, Full<Bytes>>;

/// A task in place of whoever would poll a connection; the connection ends with this.
pub(crate) type Carried = AbortOnDropHandle<()>;

pub(crate) struct Asked<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    /// What else stands in its head; what cannot stand there is left out.
    pub(crate) headers: &'a [(&'static str, String)],
    /// Shown as a bearer token.
    pub(crate) secret: Option<&'a str>,
    /// JSON, or nothing.
    pub(crate) body: Bytes,
}

impl Asked<'_> {
    pub(crate) fn request(self) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, self.host);
        if !self.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                request = request.header(*name, value);
            }
        }
        if let Some(secret) = self.secret {
            request = request.header(AUTHORIZATION, format!("Bearer {secret}"));
        }
        request.body(Full::new(self.body))
    }
}

pub(crate) async fn open<S>(stream: S) -> hyper::Result<(Sender, Carrier<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, carrier) = http1::handshake(TokioIo::new(stream)).await?;
    Ok((Sender(sender), carrier))
}

/// Carries a connection in a task.
pub(crate) fn carry<S>(carrier: Carrier<S>) -> Carried
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async {
        // Its error is told by the request that it breaks.
        let _ = carrier.await;
    }))
}

impl Sender {
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }
}

/// The whole of an answer's body, unless it is longer than `most` bytes.
pub(crate) async fn read(
    body: Incoming,
    most: usize,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, most).collect().await?.to_bytes())
}
