//! A running proxy as the operator's commands reach it: questions, orders and its feed, over HTTP.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::top::{Event, Events};

/// More than any answer.
const ANSWER_BYTES: usize = 4 << 20;

/// Which proxy is spoken to.
#[derive(Debug, clap::Args)]
pub(super) struct Proxy {
    /// Where the proxy serves HTTP (`admin.http`).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9432")]
    pub(super) http: String,
    /// The proxy's `admin.secret`, if it has one.
    #[arg(
        long,
        value_name = "SECRET",
        env = "CAUSEWAY_ADMIN_SECRET",
        hide_env_values = true
    )]
    secret: Option<String>,
}

/// An open feed, which ends with this.
pub(super) struct Feed {
    body: Incoming,
    events: Events,
    _connection: Connection,
}

/// What drives a connection; ends with this.
type Connection = AbortOnDropHandle<()>;

impl Proxy {
    /// Whether it was done, and what the proxy says. The caller bounds it.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<(bool, Value), String> {
        let (answer, _connection) = self.send(method, path).await?;
        let ok = answer.status().is_success();
        let body = read(answer.into_body()).await?;
        let body = serde_json::from_slice(&body).map_err(|error| words(&error))?;
        Ok((ok, body))
    }

    /// Opens `/api/events`. The caller bounds it.
    pub(super) async fn feed(&self) -> Result<Feed, String> {
        let (answer, connection) = self.send(Method::GET, "/api/events").await?;
        let status = answer.status();
        let body = answer.into_body();
        if status.is_success() {
            return Ok(Feed {
                body,
                events: Events::default(),
                _connection: connection,
            });
        }
        let text = read(body).await?;
        let text = String::from_utf8_lossy(&text);
        match text.lines().next() {
            Some(line) if !line.is_empty() => Err(format!("{status}: {line}")),
            _ => Err(format!("{status}: is this causeway's admin.http?")),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(Response<Incoming>, Connection), String> {
        let stream = TcpStream::connect(&self.http).await;
        let stream = stream.map_err(|error| words(&error))?;
        let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|error| words(&error))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async {
            // Its error is told by the request that it breaks.
            let _ = connection.await;
        }));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, &self.http);
        if let Some(secret) = &self.secret {
            request = request.header(hyper::header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| words(&error))?;
        let answer = sender.send_request(request).await;
        Ok((answer.map_err(|error| words(&error))?, connection))
    }
}

impl Feed {
    /// The next event. The caller bounds it.
    pub(super) async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(event) = self.events.take()? {
                return Ok(event);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.events.push(&data);
                    }
                }
                Some(Err(error)) => return Err(words(&error)),
                None => return Err("the proxy has ended the connection".to_owned()),
            }
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, String> {
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    Ok(body.map_err(|error| error.to_string())?.to_bytes())
}

fn words(error: &dyn std::error::Error) -> String {
    error.to_string()
}
