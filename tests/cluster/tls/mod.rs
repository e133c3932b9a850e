//! TLS towards clients: who gets it, who gets in, and what a session is that has come by it.

mod certificates;
mod hostile;
mod libpq;
mod sessions;

use std::path::PathBuf;

use pgcauseway::rig::Cluster;

use crate::cluster;
use crate::support::tls::{Authority, Signed, client, write};
use crate::support::{ConfigFile, Proxy};

/// A directory of certificates for one test, in which all have the same names.
struct Files {
    directory: PathBuf,
    authority: Authority,
}

impl Files {
    /// What localhost shows, signed by an authority of this test's own.
    fn new(test: &str) -> Self {
        let authority = Authority::new();
        let directory = cluster().directory().join(format!("tls-{test}"));
        std::fs::create_dir_all(&directory).unwrap();
        let files = Self {
            directory,
            authority,
        };
        write(&files.directory, "ca.pem", &files.authority.pem);
        files.show(&files.authority.sign("localhost"));
        files
    }

    /// Replaces the proxy's certificate and key.
    fn show(&self, shown: &Signed) {
        write(&self.directory, "server.pem", &shown.cert);
        write(&self.directory, "server.key", &shown.key);
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The section `tls` with this mode, and more of its keys.
    fn yaml(&self, mode: &str, more: &str) -> String {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        format!(
            "tls: {{ client: {{ mode: {mode}, cert_file: {cert:?}, key_file: {key:?}{more} }} }}\n"
        )
    }

    /// The same, where clients are asked for certificates of the same authority.
    fn asking(&self, mode: &str, client_cert: &str) -> String {
        let ca = self.path("ca.pem");
        self.yaml(
            mode,
            &format!(", client_cert: {client_cert}, ca_file: {ca:?}"),
        )
    }
}

impl Files {
    /// A proxy with an operator's console. Our own sessions come by TLS where they must.
    fn proxy(&self, yaml: &str) -> Proxy {
        if !yaml.contains("mode: require") {
            return Proxy::with_yaml(cluster(), &whole(yaml));
        }
        let own = self.authority.sign("demo");
        let client = client(&self.authority, Some(&own));
        Proxy::over_tls(cluster(), &whole(yaml), &client)
    }
}

fn with_console(cluster: &Cluster, yaml: &str) -> String {
    let user = &cluster.application().user;
    format!("\nadmin: {{ http: 127.0.0.1:0, users: [{user}] }}\n{yaml}")
}

/// The same from a file, which can be reloaded.
fn reloadable(name: &str, yaml: &str) -> (Proxy, ConfigFile) {
    let file = ConfigFile::new(cluster(), name, &whole(yaml));
    (Proxy::with_file(cluster(), &file), file)
}

fn whole(yaml: &str) -> String {
    format!("{}{}", cluster().yaml(), with_console(cluster(), yaml))
}

fn console_url(port: u16) -> String {
    let login = cluster().application();
    format!(
        "postgresql://{}:{}@127.0.0.1:{port}/causeway",
        login.user, login.password
    )
}
