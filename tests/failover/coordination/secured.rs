//! An etcd that asks for a password, and one that asks for certificates.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pgcauseway::config::{self, Coordination, Secret};
use pgcauseway::control::store::{Store, Version, examine};
use pgcauseway::rig::{Etcd, EtcdTls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::etcd::{etcd, settings};
use crate::support::{becomes, need};

async fn leads(settings: config::Etcd) -> Store {
    let store = Store::open(&Coordination::Etcd(settings), "main", "proxy")
        .await
        .unwrap();
    becomes("it leads", async || store.claim().holds()).await;
    store
}

/// What is wrong with the one member, if anything.
async fn fault(settings: config::Etcd) -> Option<String> {
    let examined = examine(&Coordination::Etcd(settings), "main").await;
    examined[0].outcome.clone().err()
}

async fn post(etcd: &Etcd, path: &str, question: Value) {
    let answer = etcd.members()[0].post(path, &question).await.unwrap();
    assert!(answer.get("error").is_none(), "{path}: {answer}");
}

/// Lets `causeway` do what it likes below /causeway/, and nobody anything without a password.
async fn ask_for_passwords(etcd: &Etcd) {
    for user in ["root", "causeway", "stranger"] {
        let password = format!("{user}-password");
        post(
            etcd,
            "/v3/auth/user/add",
            json!({ "name": user, "password": password }),
        )
        .await;
    }
    for role in ["root", "causeway"] {
        post(etcd, "/v3/auth/role/add", json!({ "name": role })).await;
        post(
            etcd,
            "/v3/auth/user/grant",
            json!({ "user": role, "role": role }),
        )
        .await;
    }
    let range = json!({
        "permType": "READWRITE",
        "key": BASE64.encode("/causeway/"),
        "range_end": BASE64.encode("/causeway0"),
    });
    post(
        etcd,
        "/v3/auth/role/grant",
        json!({ "name": "causeway", "perm": range }),
    )
    .await;
    post(etcd, "/v3/auth/enable", json!({})).await;
}

#[tokio::test]
async fn a_user_and_a_password_are_enough_where_etcd_asks_for_them() {
    let Some(etcd) = etcd("passwords", 1).await else {
        return;
    };
    ask_for_passwords(&etcd).await;
    let login = |user: &str, password: &str| config::Etcd {
        login: Some((user.to_owned(), Secret::new(password))),
        ..settings(etcd.endpoints())
    };
    let nobody = fault(settings(etcd.endpoints())).await.unwrap();
    assert!(nobody.contains("user name is empty"), "{nobody}");
    let wrong = fault(login("causeway", "wrong")).await.unwrap();
    assert!(wrong.contains("authentication failed"), "{wrong}");
    let stranger = fault(login("stranger", "stranger-password")).await.unwrap();
    assert!(stranger.contains("permission denied"), "{stranger}");
    let right = login("causeway", "causeway-password");
    assert_eq!(fault(right.clone()).await, None);

    let store = leads(right).await;
    let version = store.save(&json!(1), Version(0)).await.unwrap();
    // etcd forgets who has logged in when it is restarted.
    etcd.members()[0].kill().unwrap();
    let claim = store.claim();
    becomes("the claim ends", async || !claim.holds()).await;
    etcd.members()[0].start().await.unwrap();
    becomes("it leads again", async || claim.holds()).await;
    store.save(&json!(2), version).await.unwrap();
    store.resign().await;
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("causeway-pem-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority's certificate, and what it signs with.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}

/// A certificate for 127.0.0.1 and its key.
fn signed(authority: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    // etcd's gateway shows the server's certificate as a client's too.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn certificates_are_shown_and_checked() {
    if !need("etcd") {
        return;
    }
    let (ca, issuer) = authority();
    let (cert, key) = signed(&issuer);
    let tls = EtcdTls {
        ca: ca.clone(),
        cert,
        key,
    };
    let etcd = Etcd::start_tls("tls", &tls).await.unwrap();
    let scratch = Scratch::new();
    let (cert, key) = signed(&issuer);
    let ours = (
        scratch.write("cert.pem", &cert),
        scratch.write("key.pem", &key),
    );
    let good = config::Etcd {
        ca_file: Some(scratch.write("ca.pem", &ca)),
        client_cert: Some(ours),
        ..settings(etcd.endpoints())
    };
    assert_eq!(fault(good.clone()).await, None);
    let store = leads(good.clone()).await;
    store.save(&json!(1), Version(0)).await.unwrap();
    store.resign().await;

    let (other, _) = authority();
    let stranger = config::Etcd {
        ca_file: Some(scratch.write("other.pem", &other)),
        ..good.clone()
    };
    let untrusted = fault(stranger).await.unwrap();
    assert!(
        untrusted.contains("invalid peer certificate"),
        "{untrusted}"
    );
    let anonymous = config::Etcd {
        client_cert: None,
        ..good
    };
    assert!(
        fault(anonymous).await.is_some(),
        "it served somebody without a certificate"
    );
}
