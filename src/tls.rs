//! TLS for both ends of an agent's API; and towards clients, in `client_leg`.

pub mod client_leg;

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore, ServerConfig};

use crate::config::{Agents, Certificates, Identity};

/// Why the certificates do not serve.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificates or keys do not serve.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// The authority's certificates do not serve.
    #[error("the authority's certificates do not serve: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
}

/// What went wrong in a handshake, and on whose side.
pub fn in_words(error: &io::Error) -> String {
    use AlertDescription as Alert;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        None => error.to_string(),
        Some(Error::AlertReceived(Alert::UnknownCA)) => {
            "the other end does not know who signed our certificate (alert unknown_ca)".to_owned()
        }
        Some(Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown),
        )) => format!("the other end refuses our certificate (alert {alert:?})"),
        Some(Error::AlertReceived(Alert::CertificateRequired)) => {
            "the other end wants a certificate, and none was shown".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("the other end gave up (alert {alert:?})"),
        Some(Error::InvalidCertificate(why)) => {
            format!("the other end's certificate is not good: {why}")
        }
        Some(Error::InvalidMessage(why)) => format!("the other end speaks no TLS: {why:?}"),
        Some(other) => other.to_string(),
    }
}

// Named, so that no feature of another crate decides it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(certificates: &Certificates) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates.iter() {
        roots.add(certificate.clone())?;
    }
    Ok(Arc::new(roots))
}

/// The agent's side; with `client_ca` callers must show a certificate that it has signed.
pub fn server(
    identity: &Identity,
    client_ca: Option<&Certificates>,
) -> Result<ServerConfig, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        Some(authority) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider());
            builder.with_client_cert_verifier(verifier.build()?)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = identity.chain.iter().cloned().collect();
    Ok(builder.with_single_cert(chain, identity.key())?)
}

/// The proxy's side.
pub fn client(agents: &Agents) -> Result<ClientConfig, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(&agents.ca)?, provider());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier.build()?);
    Ok(match &agents.client {
        Some(identity) => {
            let chain = identity.chain.iter().cloned().collect();
            builder.with_client_auth_cert(chain, identity.key())?
        }
        None => builder.with_no_client_auth(),
    })
}
