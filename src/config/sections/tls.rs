//! The section `tls`: how clients speak TLS with the proxy.

use crate::config::pem::{Certificates, Identity, authorities, identity};
use crate::config::section::{Read, Section};
use crate::config::values::one_of;

/// TLS, by leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Towards clients.
    pub client: ClientTls,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether it is offered, or asked for.
    pub mode: ClientTlsMode,
    /// What the proxy shows; given unless the mode is off.
    pub identity: Option<Identity>,
    /// Who signs the certificates of clients; given if they are asked for.
    pub ca: Option<Certificates>,
    /// Whether clients are asked for certificates.
    pub client_cert: ClientCert,
}

/// Whether clients are offered TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// No client gets it.
    Off,
    /// Whoever asks for it gets it.
    Prefer,
    /// Nobody logs in without it.
    Require,
}

/// Whether clients are asked for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// They are not.
    Off,
    /// One that is shown must be good.
    Request,
    /// Nobody logs in without a good one.
    Require,
}

const MODES: [(&str, ClientTlsMode); 3] = [
    ("off", ClientTlsMode::Off),
    ("prefer", ClientTlsMode::Prefer),
    ("require", ClientTlsMode::Require),
];

const CLIENT_CERTS: [(&str, ClientCert); 3] = [
    ("off", ClientCert::Off),
    ("request", ClientCert::Request),
    ("require", ClientCert::Require),
];

pub(super) fn tls(section: &mut Section<'_>) -> Read<Tls> {
    let client = section.section("client", client)?;
    Ok(Tls { client })
}

fn client(section: &mut Section<'_>) -> Read<ClientTls> {
    let mode = section.or("mode", ClientTlsMode::Off, one_of(&MODES));
    let identity = identity(section, "cert_file", "key_file");
    let ca = section.found("ca_file", authorities);
    let client_cert = section.or("client_cert", ClientCert::Off, one_of(&CLIENT_CERTS));
    let (mode, identity, ca, client_cert) = (mode?, identity?, ca?, client_cert?);
    if mode != ClientTlsMode::Off && identity.is_none() {
        return Err(section.fault(
            "cert_file",
            "missing: TLS needs a certificate (`cert_file`) and its key (`key_file`), or `mode: off`",
        ));
    }
    match (client_cert, &ca) {
        (ClientCert::Off, Some(_)) => Err(section.fault(
            "ca_file",
            "nobody is asked for a certificate that it could have signed: set `client_cert` to \
             request or require, or remove it",
        )),
        (ClientCert::Request | ClientCert::Require, None) => Err(section.fault(
            "ca_file",
            "missing: name who signs the certificates that `client_cert` asks for",
        )),
        (ClientCert::Require, Some(_)) if mode != ClientTlsMode::Require => Err(section.fault(
            "client_cert",
            "without TLS no certificate can be shown: require needs `mode: require`",
        )),
        _ => Ok(ClientTls {
            mode,
            identity,
            ca,
            client_cert,
        }),
    }
}

/// What is allowed and probably not meant, as of now.
pub(super) fn advice(tls: &Tls) -> Vec<String> {
    let ClientTls {
        mode, identity, ca, ..
    } = &tls.client;
    if *mode == ClientTlsMode::Off {
        let idle = identity.is_some() || ca.is_some();
        let text = "tls.client: the certificates are not used, since `mode` is off";
        return idle.then(|| text.to_owned()).into_iter().collect();
    }
    let shown = identity.as_ref().map(|identity| &identity.chain);
    let named = [("cert_file", shown), ("ca_file", ca.as_ref())];
    let faults = named.into_iter().filter_map(|(key, certificates)| {
        let why = certificates?.out_of_date()?;
        Some(format!("tls.client.{key}: {why}"))
    });
    faults.collect()
}
