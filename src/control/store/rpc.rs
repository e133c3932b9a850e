//! The part of etcd's v3 API that is used here, over gRPC: transactions, a watch, and the status.
//!
//! The messages are written out, with their numbers from etcd's `rpc.proto` and `kv.proto`, so that
//! no build needs the protobuf compiler (docs/adr/0006-etcd-client.md).

use prost::Message;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::config::Secret;

/// A connection to one member, logged in if need be. Clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    grpc: Grpc<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// Connects, and logs in when there is a user.
    pub(super) async fn open(
        endpoint: &Endpoint,
        login: Option<&(String, Secret)>,
    ) -> Result<Self, Status> {
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let mut connection = Self {
            grpc: Grpc::new(channel),
            token: None,
        };
        if let Some((name, password)) = login {
            let request = AuthenticateRequest {
                name: name.clone(),
                password: password.reveal().to_owned(),
            };
            let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
            let answer: AuthenticateResponse = connection.unary(request, path).await?;
            let token = answer.token.parse();
            connection.token = Some(token.map_err(|_| Status::internal("an unusable token"))?);
        }
        Ok(connection)
    }

    /// Runs a transaction. It reads and writes the present state, agreed on by a majority.
    pub(super) async fn transact(&self, txn: Txn) -> Result<TxnResponse, Status> {
        self.unary(txn, PathAndQuery::from_static("/etcdserverpb.KV/Txn"))
            .await
    }

    /// The member's own view of itself.
    pub(super) async fn status(&self) -> Result<StatusResponse, Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
        self.unary(StatusRequest {}, path).await
    }

    /// Watches every key that begins with `prefix`, which must not be empty.
    pub(super) async fn watch(&self, prefix: &str) -> Result<Streaming<WatchResponse>, Status> {
        let end = end_of(prefix);
        let create = WatchRequest {
            create_request: Some(WatchCreateRequest {
                key: prefix.as_bytes().to_vec(),
                range_end: end,
            }),
        };
        // The watch lasts as long as the stream of requests does.
        let requests = tokio_stream::once(create).chain(tokio_stream::pending());
        let mut request = requests.into_streaming_request();
        self.sign(request.metadata_mut());
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(unreachable)?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
        Ok(grpc.streaming(request, path, codec).await?.into_inner())
    }

    async fn unary<Q, A>(&self, question: Q, path: PathAndQuery) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut request = Request::new(question);
        self.sign(request.metadata_mut());
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(unreachable)?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    fn sign(&self, metadata: &mut tonic::metadata::MetadataMap) {
        // A member that has lost the others says so at once instead of trying.
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
    }
}

/// The first key after all that begin with `prefix`, whose last byte is ASCII.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The transport's own text is "transport error"; what it means is further down.
fn unreachable(error: tonic::transport::Error) -> Status {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    Status::unavailable(text)
}

/// If all comparisons hold, `success` is done, else `failure`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<RequestOp>,
}

/// A comparison of one key; a key that is not there has revision 0 and equals no value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Compare {
    #[prost(int32, tag = "1")]
    result: i32,
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(oneof = "Operand", tags = "6, 7")]
    operand: Option<Operand>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Operand {
    #[prost(int64, tag = "6")]
    ModRevision(i64),
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
}

/// `CompareResult.EQUAL`, `CompareTarget.MOD` and `CompareTarget.VALUE`.
const EQUAL: i32 = 0;
const MOD: i32 = 2;
const VALUE: i32 = 3;

impl Compare {
    /// The key was last changed at that revision; 0 when there must be none.
    pub(super) fn revision_is(key: &str, revision: i64) -> Self {
        Self {
            result: EQUAL,
            target: MOD,
            key: key.into(),
            operand: Some(Operand::ModRevision(revision)),
        }
    }

    /// The key has that value.
    pub(super) fn value_is(key: &str, value: &str) -> Self {
        Self {
            result: EQUAL,
            target: VALUE,
            key: key.into(),
            operand: Some(Operand::Value(value.into())),
        }
    }
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    step: Option<Operation>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

impl RequestOp {
    pub(super) fn get(key: &str) -> Self {
        let (key, range_end) = (key.into(), Vec::new());
        Self {
            step: Some(Operation::Range(RangeRequest { key, range_end })),
        }
    }

    /// Every key that begins with `prefix`, which must not be empty.
    pub(super) fn get_all(prefix: &str) -> Self {
        let (key, range_end) = (prefix.into(), end_of(prefix));
        Self {
            step: Some(Operation::Range(RangeRequest { key, range_end })),
        }
    }

    pub(super) fn put(key: &str, value: &str) -> Self {
        let (key, value) = (key.into(), value.into());
        Self {
            step: Some(Operation::Put(PutRequest { key, value })),
        }
    }

    pub(super) fn delete(key: &str) -> Self {
        let key = key.into();
        Self {
            step: Some(Operation::Delete(DeleteRangeRequest { key })),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    /// Empty for this one key.
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// How a transaction ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    responses: Vec<ResponseOp>,
}

impl TxnResponse {
    /// etcd's revision after the transaction: that of the keys that it changed.
    pub(super) fn revision(&self) -> i64 {
        self.header.as_ref().map_or(0, |header| header.revision)
    }

    /// The key that the step of that number read, if the key is there.
    pub(super) fn got(&self, step: usize) -> Option<&KeyValue> {
        self.all(step).first()
    }

    /// The keys that the step of that number read.
    pub(super) fn all(&self, step: usize) -> &[KeyValue] {
        let range = self.responses.get(step).and_then(|op| op.range.as_ref());
        range.map_or(&[], |range| &range.kvs)
    }
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

/// A key as it is stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The revision of its last change.
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create_request: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

/// News of a watch. What changed is read anew, so the events themselves are left out.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchResponse {
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
}

#[derive(Clone, PartialEq, Message)]
struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, Message)]
struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

/// What a member says of itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    /// etcd's version, such as `3.4.23`.
    #[prost(string, tag = "2")]
    pub(super) version: String,
    /// Size of its database file in bytes.
    #[prost(int64, tag = "3")]
    pub(super) db_size: i64,
    /// The member that leads; 0 when it knows none.
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
}
