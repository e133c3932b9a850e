//! The section `tls`: what must hold between its keys, and what is wrong with files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

const REST: &str = "nodes: [{ name: pg1, host: db1 }]\nauth: { users: { app: { password: a } } }\n";

/// A directory of files, removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let name = format!("causeway-tls-{test}-{}", std::process::id());
        let files = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&files.0).unwrap();
        for (name, until) in [("a", 4000), ("b", 4000), ("old", 2020)] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            let signed = params.self_signed(&key).unwrap();
            files.write(&format!("{name}.pem"), &signed.pem());
            files.write(&format!("{name}.key"), &key.serialize_pem());
        }
        files.write("none.pem", "nothing of the kind\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Reads a configuration beside them with these keys of `tls.client`.
    fn read(&self, keys: &str) -> Result<Config, Faults> {
        let name = self.0.join("config.yaml").display().to_string();
        let text = format!("{REST}tls:\n  client: {{ {keys} }}\n");
        Config::parse(&name, &text, &|_| None)
    }

    /// The only fault, without the file's name.
    fn fault(&self, keys: &str) -> String {
        let faults = self.read(keys).unwrap_err();
        assert_eq!(faults.iter().len(), 1, "{faults}");
        let fault = faults.iter().next().unwrap();
        format!("{}: {}: {}", fault.line.unwrap(), fault.key, fault.text)
    }

    fn advice(&self, keys: &str) -> Vec<String> {
        self.read(keys).unwrap_or_else(|f| panic!("{f}")).advice()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_fault_says_where_it_is_and_what_would_be_right() {
    let files = Files::new("faults");
    let path = |name: &str| files.0.join(name).display().to_string();
    let own = "cert_file: a.pem, key_file: a.key";
    let cases = [
        (
            "mode: prefer".to_owned(),
            "cert_file: missing: TLS needs a certificate (`cert_file`) and its key (`key_file`), or \
             `mode: off`"
                .to_owned(),
        ),
        (
            "mode: require, cert_file: a.pem".to_owned(),
            "key_file: missing beside cert_file".to_owned(),
        ),
        (
            "mode: require, cert_file: a.pem, key_file: b.key".to_owned(),
            "key_file: is not the key of the first certificate in cert_file".to_owned(),
        ),
        (
            "mode: require, cert_file: none.pem, key_file: a.key".to_owned(),
            format!("cert_file: `{}` must hold certificates in PEM form", path("none.pem")),
        ),
        (
            "mode: require, cert_file: a.pem, key_file: a.pem".to_owned(),
            format!(
                "key_file: `{}` must hold an unencrypted private key in PEM form",
                path("a.pem")
            ),
        ),
        (
            format!("mode: require, {own}, client_cert: request"),
            "ca_file: missing: name who signs the certificates that `client_cert` asks for".to_owned(),
        ),
        (
            format!("mode: require, {own}, ca_file: b.pem"),
            "ca_file: nobody is asked for a certificate that it could have signed: set `client_cert` \
             to request or require, or remove it"
                .to_owned(),
        ),
        (
            format!("mode: prefer, {own}, ca_file: b.pem, client_cert: require"),
            "client_cert: without TLS no certificate can be shown: require needs `mode: require`"
                .to_owned(),
        ),
        (
            "mode: on".to_owned(),
            "mode: must be one of off, prefer, require, not `on`".to_owned(),
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(
            files.fault(&keys),
            format!("4: tls.client.{expected}"),
            "{keys}"
        );
    }
    fs::set_permissions(files.0.join("a.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let fault = files.fault(&format!("mode: prefer, {own}"));
    assert!(fault.contains("can be read by everyone"), "{fault}");
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let files = Files::new("advice");
    let good = "cert_file: a.pem, key_file: a.key";
    assert_eq!(
        files.advice(&format!("mode: require, {good}")),
        Vec::<String>::new()
    );
    let off = files.advice(good);
    assert!(off[0].contains("`mode` is off"), "{off:?}");
    let old = files.advice(
        "mode: require, cert_file: old.pem, key_file: old.key, client_cert: request, ca_file: old.pem",
    );
    assert_eq!(old.len(), 2, "{old:?}");
    assert!(
        old[0].starts_with("tls.client.cert_file: the certificate has expired"),
        "{old:?}"
    );
    assert!(old[0].contains("2020"), "{old:?}");
    assert!(old[1].starts_with("tls.client.ca_file: "), "{old:?}");
}

#[test]
fn a_file_that_holds_something_else_is_a_change() {
    let files = Files::new("reload");
    let keys = "mode: require, cert_file: a.pem, key_file: a.key";
    let running = files.read(keys).unwrap();
    let same = reload(&running, files.read(keys).unwrap());
    assert_eq!((same.applied, same.restart), (vec![], vec![]));
    for name in ["pem", "key"] {
        let other = fs::read_to_string(files.0.join(format!("b.{name}"))).unwrap();
        files.write(&format!("a.{name}"), &other);
    }
    let wanted =
        "mode: prefer, cert_file: a.pem, key_file: a.key, client_cert: request, ca_file: b.pem";
    let next = reload(&running, files.read(wanted).unwrap());
    assert_eq!(
        next.applied.join(" "),
        "tls.client.mode tls.client.cert_file tls.client.ca_file tls.client.client_cert"
    );
    assert_eq!(next.restart, Vec::<String>::new());
}
