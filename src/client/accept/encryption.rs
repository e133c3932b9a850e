//! What comes before a startup packet: requests for encryption, and the handshake. And who must have asked.

use std::io;
use std::sync::Arc;

use super::refusal::Refusal;
use crate::error::{Kind, Problem};
use crate::tls::{self, client_leg::ClientLeg};
use crate::wire::auth::Binding;
use crate::wire::socket::Socket;
use crate::wire::startup::Hello;

/// The first byte of a handshake, which is none of a packet's length.
pub(super) const HANDSHAKE: u8 = 0x16;

/// What a client has asked for, and by what it has come.
#[derive(Default)]
pub(super) struct Encryption {
    ssl: bool,
    gss: bool,
    /// The TLS that it has come by, if it has; a reload may have put another in its place.
    leg: Option<Arc<ClientLeg>>,
}

impl Encryption {
    /// Whether TLS may begin without a request: nothing has been said yet.
    pub(super) fn may_begin(&self) -> bool {
        !self.ssl && !self.gss
    }

    /// By what a login can be bound to it.
    pub(super) fn binding(&self) -> Option<&Binding> {
        self.leg.as_ref()?.binding.as_ref()
    }

    /// Answers SSLRequest, which may come once and not within TLS, by what is `offered`.
    pub(super) async fn answer_ssl(
        &mut self,
        socket: &mut Socket,
        offered: Option<Arc<ClientLeg>>,
    ) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.ssl, true) {
            return Err(unsupported("1234.5679").into());
        }
        let Some(leg) = offered else {
            return Ok(socket.write_all(b"N").await?);
        };
        // It was not encrypted, and anybody may have put it there.
        if socket.has_rest() {
            let what = "received unencrypted data after SSL request";
            return Err(Problem::fatal(Kind::ProtocolViolation, what)
                .with_detail(
                    "This could be either a client-software bug or evidence of an attempted \
                     man-in-the-middle attack.",
                )
                .into());
        }
        socket.write_all(b"S").await?;
        self.shake_hands(socket, leg).await
    }

    /// Declines GSSENCRequest, which may come once and not within TLS.
    pub(super) async fn answer_gss(&mut self, socket: &mut Socket) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.gss, true) {
            return Err(unsupported("1234.5680").into());
        }
        Ok(socket.write_all(b"N").await?)
    }

    /// TLS from the first byte on, which must say by ALPN that it is meant for PostgreSQL.
    pub(super) async fn begin(
        &mut self,
        socket: &mut Socket,
        leg: Arc<ClientLeg>,
    ) -> Result<(), Refusal> {
        self.shake_hands(socket, leg).await?;
        let protocol = socket.tls().and_then(|tls| tls.alpn_protocol());
        match protocol {
            Some(_) => Ok(()),
            None => Err(Refusal::Handshake(
                "a direct SSL connection without the ALPN protocol postgresql".to_owned(),
            )),
        }
    }

    async fn shake_hands(
        &mut self,
        socket: &mut Socket,
        leg: Arc<ClientLeg>,
    ) -> Result<(), Refusal> {
        let connection = leg.connection();
        let connection = connection.map_err(|error| Refusal::Handshake(error.to_string()))?;
        socket.secure(connection).await.map_err(|error| {
            // Whoever is gone has said nothing.
            match error.kind() == io::ErrorKind::InvalidData {
                true => Refusal::Handshake(tls::in_words(&error)),
                false => Refusal::Silent,
            }
        })?;
        (self.ssl, self.gss, self.leg) = (true, true, Some(leg));
        Ok(())
    }
}

/// Whether a client may log in by the connection that it has come by.
pub(super) fn check(
    wanted: Option<&ClientLeg>,
    socket: &Socket,
    hello: &Hello,
) -> Result<(), Problem> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let refuse = |what| Problem::fatal(Kind::InvalidAuthorization, what);
    match socket.tls() {
        None if wanted.required => {
            let Hello { user, database, .. } = hello;
            let from = socket.peer().map(|peer| peer.ip().to_string());
            let from = from.unwrap_or_else(|_| "unknown".to_owned());
            let what = format!(
                "causeway lets nobody in without TLS: host \"{from}\", user \"{user}\", database \
                 \"{database}\", no encryption"
            );
            Err(refuse(what).with_hint("Connect with sslmode=require or stronger."))
        }
        Some(tls) if wanted.certificate_required && tls.peer_certificates().is_none() => {
            let what = "connection requires a valid client certificate";
            Err(refuse(what.to_owned()))
        }
        _ => Ok(()),
    }
}

fn unsupported(code: &str) -> Problem {
    let what = format!("unsupported frontend protocol {code}: causeway supports 3.0 to 3.2");
    Problem::fatal(Kind::FeatureNotSupported, what)
}
