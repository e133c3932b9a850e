//! Certificates for the agents and the proxy, and the secret they share, made anew for a cluster.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::RigError;
use super::account::Account;
use super::home;
use super::yaml::{path, section};

/// An authority of the cluster's own, with what it has signed.
#[derive(Debug)]
pub(super) struct Authority {
    directory: PathBuf,
    pub(super) secret: String,
}

impl Authority {
    /// Makes the authority, one certificate that serves all agents at these addresses, and the proxy's.
    pub(super) fn create(
        home: &Path,
        account: Account,
        addresses: &[Ipv4Addr],
    ) -> Result<Self, RigError> {
        let authority = Self {
            directory: home.join("agents"),
            secret: format!("{:032x}", rand::random::<u128>()),
        };
        home::private_directory(&authority.directory, account)?;
        let made = sign_all(addresses);
        let made = made.map_err(|error| {
            RigError::io("make certificates for the agents")(std::io::Error::other(error))
        })?;
        for (name, pem) in made {
            home::write_private(&authority.directory.join(name), &pem, account)?;
        }
        Ok(authority)
    }

    /// One of its files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The section `agents` of a proxy's configuration.
    pub(super) fn yaml(&self) -> String {
        let [ca, cert, key] =
            ["ca.pem", "proxy.pem", "proxy.key"].map(|name| path(&self.file(name)));
        let secret = &self.secret;
        let agents = json!({
            "ca_file": ca, "secret": secret, "cert_file": cert, "key_file": key,
        });
        section("agents", agents)
    }
}

fn sign_all(addresses: &[Ipv4Addr]) -> Result<Vec<(&'static str, String)>, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = params.self_signed(&ca_key)?;
    let issuer = Issuer::new(params, ca_key);
    let sign = |names: &[String], usages| {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = usages;
        let signed = params.signed_by(&key, &issuer)?;
        Ok::<_, rcgen::Error>((signed.pem(), key.serialize_pem()))
    };
    let addresses = addresses.iter().copied().chain([Ipv4Addr::LOCALHOST]);
    let mut here: Vec<String> = addresses.map(|ip| IpAddr::from(ip).to_string()).collect();
    here.push("localhost".to_owned());
    let (server, client) = (
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    // Agents ask each other as well.
    let (agent, agent_key) = sign(&here, vec![server, client.clone()])?;
    let (proxy, proxy_key) = sign(&["causeway".to_owned()], vec![client])?;
    Ok(vec![
        ("ca.pem", ca.pem()),
        ("agent.pem", agent),
        ("agent.key", agent_key),
        ("proxy.pem", proxy),
        ("proxy.key", proxy_key),
    ])
}
