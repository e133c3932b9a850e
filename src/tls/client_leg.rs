//! TLS towards clients: what a handshake that begins now goes by. One that is under way keeps what it began with.

use std::fmt;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Connection, ServerConfig, ServerConnection};

use super::{TlsError, provider, roots};
use crate::config::{ClientCert, ClientTls, ClientTlsMode};
use crate::wire::auth::Binding;

/// The protocol's name in ALPN (manual, "SSL Session Encryption").
pub const ALPN: &[u8] = b"postgresql";

/// What clients are offered and asked for.
pub struct ClientLeg {
    /// Nobody logs in without TLS.
    pub required: bool,
    /// Nobody logs in without a certificate.
    pub certificate_required: bool,
    /// By what SCRAM binds a login to this proxy's certificate, where that certificate has such a thing.
    pub binding: Option<Binding>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for ClientLeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLeg").finish_non_exhaustive()
    }
}

impl ClientLeg {
    /// None where TLS is off.
    ///
    /// # Errors
    /// The certificates or the key do not serve.
    pub fn new(settings: &ClientTls) -> Result<Option<Self>, TlsError> {
        let ClientTls {
            mode,
            identity,
            ca,
            client_cert,
        } = settings;
        let (Some(identity), true) = (identity, *mode != ClientTlsMode::Off) else {
            return Ok(None);
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match ca {
            // Who shows none is refused by a message, as PostgreSQL does it, and not by the handshake.
            Some(ca) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider());
                builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
            }
            None => builder.with_no_client_auth(),
        };
        let chain: Vec<_> = identity.chain.iter().cloned().collect();
        let binding = chain.first().and_then(|own| Binding::to(own));
        let mut server = builder.with_single_cert(chain, identity.key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL resumes no session either: who was let in by an authority that is no longer trusted
        // would be let in again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Some(Self {
            required: *mode == ClientTlsMode::Require,
            certificate_required: *client_cert == ClientCert::Require,
            binding,
            server: Arc::new(server),
        }))
    }

    /// The proxy's end of a handshake.
    ///
    /// # Errors
    /// Only what `new` has excluded.
    pub fn connection(&self) -> Result<Connection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.server)).map(Connection::Server)
    }
}
