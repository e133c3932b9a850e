//! TLS for tests: an authority that signs what it is asked for, and a tunnel, by which clients that speak
//! none come by it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{block_on, frames};

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key, in PEM form.
#[derive(Clone)]
pub struct Signed {
    pub cert: String,
    pub key: String,
}

impl Authority {
    /// A new one, which signs with ECDSA over P-256.
    pub fn new() -> Self {
        Self::of(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// One that signs with another kind of key.
    pub fn of(kind: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(kind).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        Self {
            pem: own.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Signs a certificate for a server or a client of this name or address.
    pub fn sign(&self, name: &str) -> Signed {
        self.sign_with(name, |_| {})
    }

    /// The same with something changed.
    pub fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let common = rcgen::DnType::CommonName;
        params.distinguished_name.push(common, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        Signed {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// One that was good until years ago.
    pub fn sign_expired(&self, name: &str) -> Signed {
        self.sign_with(name, |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        })
    }
}

/// Writes a file that only its owner may read.
pub fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What a client goes by that knows this authority, and perhaps has a certificate.
pub fn client(authority: &Authority, own: Option<&Signed>) -> Arc<ClientConfig> {
    client_with(authority, own, |_| {})
}

/// The same with something changed.
pub fn client_with(
    authority: &Authority,
    own: Option<&Signed>,
    change: impl FnOnce(&mut ClientConfig),
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    change(&mut config);
    Arc::new(config)
}

/// A port whose connections come out of TLS at another; closed when dropped.
pub struct Tunnel {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Tunnel {
    /// To this port of this machine, by TLS that PostgreSQL's SSLRequest begins.
    pub fn to(port: u16, config: &Arc<ClientConfig>) -> Self {
        let connector = TlsConnector::from(Arc::clone(config));
        Self::by(move |near| secured(near, port, connector.clone(), true))
    }

    /// To this port, by TLS from the first byte on.
    pub fn direct(port: u16, config: &Arc<ClientConfig>) -> Self {
        let connector = TlsConnector::from(Arc::clone(config));
        Self::by(move |near| secured(near, port, connector.clone(), false))
    }

    /// To this port, byte by byte, and without any TLS of its own.
    pub fn in_bytes(port: u16) -> Self {
        Self::by(move |near| in_bytes(near, port))
    }

    fn by<Work>(pass: impl Fn(TcpStream) -> Work + Send + 'static) -> Self
    where
        Work: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let SocketAddr::V4(own) = listener.local_addr().unwrap() else {
            panic!()
        };
        let accept = async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                // Whatever ends one side ends the other.
                tokio::spawn(pass(near));
            }
        };
        Self {
            port: own.port(),
            task: super::RUNTIME.spawn(accept),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn open(near: &TcpStream, port: u16) -> std::io::Result<TcpStream> {
    near.set_nodelay(true)?;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    far.set_nodelay(true)?;
    Ok(far)
}

async fn secured(
    mut near: TcpStream,
    port: u16,
    connector: TlsConnector,
    asks: bool,
) -> std::io::Result<()> {
    let mut far = open(&near, port).await?;
    if asks {
        far.write_all(&frames::ssl_request()).await?;
        let mut answer = [0];
        far.read_exact(&mut answer).await?;
        assert_eq!(answer, *b"S", "no TLS is offered");
    }
    let name = ServerName::try_from("localhost").unwrap();
    let mut far = connector.connect(name, far).await?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

async fn in_bytes(near: TcpStream, port: u16) -> std::io::Result<()> {
    let far = open(&near, port).await?;
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
        (near.into_split(), far.into_split());
    let there = async {
        loop {
            let byte = from_near.read_u8().await?;
            to_far.write_all(&[byte]).await?;
        }
    };
    let back = async { tokio::io::copy(&mut from_far, &mut to_near).await };
    tokio::select! {
        ended = there => ended,
        ended = back => ended.map(drop),
    }
}
