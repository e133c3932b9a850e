//! A running proxy as the operator's commands reach it: questions, orders and its feed, over HTTP.

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::http::{self, Asked, Carried};
use crate::top::{EventReader, ServerSentEvent};

/// More than any answer.
const ANSWER_BYTES: usize = 4 << 20;

/// Which proxy is spoken to.
#[derive(Debug, clap::Args)]
pub(super) struct AdminClient {
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
    events: EventReader,
    _carried: Carried,
}

impl AdminClient {
    /// Whether it was done, and what the proxy says. The caller bounds it.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<(bool, Value), String> {
        let (answer, _carried) = self.send(method, path).await?;
        let ok = answer.status().is_success();
        let body = read(answer.into_body()).await?;
        let body = serde_json::from_slice(&body).map_err(|error| words(&error))?;
        Ok((ok, body))
    }

    /// Opens `/api/events`. The caller bounds it.
    pub(super) async fn feed(&self) -> Result<Feed, String> {
        let (answer, carried) = self.send(Method::GET, "/api/events").await?;
        let status = answer.status();
        let body = answer.into_body();
        if status.is_success() {
            return Ok(Feed {
                body,
                events: EventReader::default(),
                _carried: carried,
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
    ) -> Result<(Response<Incoming>, Carried), String> {
        let stream = TcpStream::connect(&self.http).await;
        let stream = stream.map_err(|error| words(&error))?;
        let opened = http::open(stream).await;
        let (mut sender, carrier) = opened.map_err(|error| words(&error))?;
        let carried = http::carry(carrier);
        let asked = Asked {
            method,
            path,
            headers: &[],
            host: &self.http,
            secret: self.secret.as_deref(),
            body: Bytes::new(),
        };
        let request = asked.request().map_err(|error| words(&error))?;
        let answer = sender.send(request).await;
        Ok((answer.map_err(|error| words(&error))?, carried))
    }
}

impl Feed {
    /// The next event. The caller bounds it.
    pub(super) async fn next(&mut self) -> Result<ServerSentEvent, String> {
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
    let body = http::read(body, ANSWER_BYTES).await;
    body.map_err(|error| error.to_string())
}

fn words(error: &dyn std::error::Error) -> String {
    error.to_string()
}
