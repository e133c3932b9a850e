//! Certificates and private keys from PEM files.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::time::ASN1Time;

use super::section::{Read, Section};

/// More than any chain of certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Certificates, at least one, and the file they came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates(Arc<[CertificateDer<'static>]>);

impl Certificates {
    /// What is wrong with the time of any of them, as of now.
    pub(super) fn out_of_date(&self) -> Option<String> {
        let count = self.0.len();
        self.iter().enumerate().find_map(|(index, certificate)| {
            let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
            let (now, validity) = (ASN1Time::now(), read.validity());
            let which = match count {
                1 => "the certificate".to_owned(),
                _ => format!("certificate {} of {count}", index + 1),
            };
            if now > validity.not_after {
                return Some(format!(
                    "{which} has expired: it was good until {}",
                    validity.not_after
                ));
            }
            (now < validity.not_before).then(|| {
                format!(
                    "{which} is not good yet, but from {} on",
                    validity.not_before
                )
            })
        })
    }

    /// The certificates in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.iter()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} certificates>", self.0.len())
    }
}

/// A certificate with what leads up to its authority, and its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate in front.
    pub chain: Certificates,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    /// The private key, for the one place that proves possession of it.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} and <private key>", self.chain)
    }
}

/// Reads a certificate and its key; one without the other is a fault.
pub(super) fn identity(
    section: &mut Section<'_>,
    cert_key: &'static str,
    key_key: &'static str,
) -> Read<Option<Identity>> {
    let chain = section.found(cert_key, certificates);
    let key = section.found(key_key, private_key);
    match (chain?, key?) {
        (Some(chain), Some(key)) => {
            let key = Arc::new(key);
            let (at, text) = match belong_together(&chain, &key) {
                Ok(()) => return Ok(Some(Identity { chain, key })),
                Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => (
                    key_key,
                    format!("is not the key of the first certificate in {cert_key}"),
                ),
                Err(rustls::Error::InvalidCertificate(why)) => (
                    cert_key,
                    format!("the first certificate in it cannot be used: {why}"),
                ),
                Err(why) => (
                    key_key,
                    format!("must hold an RSA, ECDSA (P-256 or P-384) or Ed25519 key: {why}"),
                ),
            };
            Err(section.fault(at, text))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(section.fault(key_key, format!("missing beside {cert_key}"))),
        (None, Some(_)) => Err(section.fault(cert_key, format!("missing beside {key_key}"))),
    }
}

fn belong_together(
    chain: &Certificates,
    key: &PrivateKeyDer<'static>,
) -> Result<(), rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(chain.0.to_vec(), key.clone_key(), &provider).map(drop)
}

/// The certificates of a PEM file, each of which can vouch for others.
pub(super) fn authorities(path: PathBuf) -> Result<Certificates, String> {
    let name = path.display().to_string();
    let found = certificates(path)?;
    for (index, certificate) in found.iter().enumerate() {
        let usable = RootCertStore::empty().add(certificate.clone());
        usable.map_err(|why| {
            format!(
                "certificate {} in `{name}` cannot vouch for others: {why}",
                index + 1
            )
        })?;
    }
    Ok(found)
}

/// The certificates of a PEM file.
pub(super) fn certificates(path: PathBuf) -> Result<Certificates, String> {
    let name = path.display();
    let pem = read(&path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(Certificates(found.into())),
        _ => Err(format!("`{name}` must hold certificates in PEM form")),
    }
}

fn private_key(path: PathBuf) -> Result<PrivateKeyDer<'static>, String> {
    let name = path.display();
    let pem = read(&path)?;
    if fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o004 != 0) {
        return Err(format!(
            "`{name}` can be read by everyone: run chmod o-rwx on it"
        ));
    }
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("`{name}` must hold an unencrypted private key in PEM form"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let name = path.display();
    let unreadable = |error| format!("`{name}` cannot be read: {error}");
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Err(format!("`{name}` must be a regular file of at most 1 MB"));
    }
    fs::read(path).map_err(unreadable)
}
