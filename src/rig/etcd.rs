//! A real etcd for the tests, of one member or several, to be killed, frozen and brought back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::RigError;
use super::account::Account;
use super::daemon::Daemon;
use super::deadline::Deadline;
use super::home::{self, Home};
use super::net::{Host, Place};
use super::ports::Reservation;
use super::watchdog::Watchdog;

/// Bound on every single operation, such as a start.
const WITHIN: Duration = Duration::from_secs(60);
/// A member that is asked how it is has that long to answer.
const ASKED: Duration = Duration::from_secs(2);

/// Looks for the server in `CAUSEWAY_ETCD` (a path), else in `PATH` and where packages put it.
pub fn find_etcd() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CAUSEWAY_ETCD").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&on_path).collect::<Vec<_>>();
    let usual = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let candidates = directories.into_iter().chain(usual);
    candidates
        .map(|directory| directory.join("etcd"))
        .find(|path| path.is_file())
}

/// A running etcd cluster. Dropping it kills every member and removes its data.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    home: Home,
    members: Vec<Arc<EtcdMember>>,
    /// Last, so that it is called off when all is clean.
    _watchdog: Watchdog,
}

/// Certificates in PEM format for an etcd that serves and asks for them.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Of whoever signed the server's and the clients'.
    pub ca: String,
    /// The server's, for 127.0.0.1.
    pub cert: String,
    /// Its key.
    pub key: String,
}

#[derive(Debug)]
pub struct EtcdMember {
    name: String,
    home: PathBuf,
    place: Place,
    account: Account,
    program: PathBuf,
    /// For clients, for the other members, and for health checks.
    ports: Mutex<[Reservation; 3]>,
    scheme: &'static str,
    arguments: Vec<String>,
    daemon: Daemon,
}

impl Etcd {
    /// Starts so many members and returns once each serves. Whether there is an etcd to start,
    /// [`find_etcd`] tells beforehand.
    pub async fn start(name: &str, members: usize) -> Result<Self, RigError> {
        Self::start_with(name, &vec![Place::LOOPBACK; members], None).await
    }

    /// The same with a member on each host; it takes root.
    pub async fn start_on(name: &str, hosts: &[Host]) -> Result<Self, RigError> {
        let places: Vec<Place> = hosts.iter().map(Host::place).collect();
        Self::start_with(name, &places, None).await
    }

    /// The same with one member that speaks TLS with its clients and wants to see their certificates.
    pub async fn start_tls(name: &str, tls: &EtcdTls) -> Result<Self, RigError> {
        Self::start_with(name, &[Place::LOOPBACK], Some(tls)).await
    }

    async fn start_with(
        name: &str,
        places: &[Place],
        tls: Option<&EtcdTls>,
    ) -> Result<Self, RigError> {
        let program = find_etcd().ok_or(RigError::NoEtcd)?;
        let account = Account::choose()?;
        let home = Home::create(None, name, false, false, account)?;
        let watchdog = Watchdog::start(&home.path, false)?;
        let mut ports = Vec::new();
        for _ in places {
            ports.push([
                Reservation::any()?,
                Reservation::any()?,
                Reservation::any()?,
            ]);
        }
        let cluster: Vec<String> = ports
            .iter()
            .zip(places)
            .enumerate()
            .map(|(index, ([_, peer, _], place))| {
                format!("e{}={}", index + 1, place.url("http", peer.port()))
            })
            .collect();
        let cluster = cluster.join(",");
        let members = ports.into_iter().zip(places).enumerate();
        let members = members.map(|(index, (ports, place))| {
            let home = home.path.join(format!("e{}", index + 1));
            let program = program.clone();
            let secure = tls.is_some();
            let member = EtcdMember::new(home, *place, account, program, ports, &cluster, secure);
            Arc::new(member)
        });
        let etcd = Self {
            name: name.to_owned(),
            members: members.collect(),
            home,
            _watchdog: watchdog,
        };
        for member in &etcd.members {
            home::private_directory(&member.home, account)?;
            if let Some(tls) = tls {
                for (file, text) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
                    home::write_private(&member.home.join(file), text, account)?;
                }
            }
            member.spawn()?;
        }
        for member in &etcd.members {
            member.wait_ready().await?;
        }
        Ok(etcd)
    }

    pub fn members(&self) -> &[Arc<EtcdMember>] {
        &self.members
    }

    /// Where clients connect, one URL a member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.endpoint())
            .collect()
    }

    /// The member that leads the others; waits for one.
    pub async fn leader(&self) -> Result<&Arc<EtcdMember>, RigError> {
        let deadline = Deadline::after(WITHIN);
        loop {
            for member in &self.members {
                if member.leads().await {
                    return Ok(member);
                }
            }
            if !deadline.again().await {
                return Err(self.members[0].daemon.too_late("see a leader"));
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(logs) = self.home.rescue_logs(&self.name)
        {
            eprintln!("the logs of etcd {} are in {}", self.name, logs.display());
        }
        for member in &self.members {
            let _ = member.kill();
        }
    }
}

impl EtcdMember {
    fn new(
        home: PathBuf,
        place: Place,
        account: Account,
        program: PathBuf,
        ports: [Reservation; 3],
        cluster: &str,
        secure: bool,
    ) -> Self {
        let scheme = if secure { "https" } else { "http" };
        let name = home.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let clients = place.url(scheme, ports[0].port());
        let [peers, health] = [&ports[1], &ports[2]].map(|port| place.url("http", port.port()));
        let data = format!("--data-dir={}", home.join("data").display());
        let mut arguments = [
            data.as_str(),
            &format!("--name={name}"),
            &format!("--listen-client-urls={clients}"),
            &format!("--advertise-client-urls={clients}"),
            &format!("--listen-metrics-urls={health}"),
            &format!("--listen-peer-urls={peers}"),
            &format!("--initial-advertise-peer-urls={peers}"),
            &format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=new",
            // A test should not wait for seconds until a new member leads.
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--auto-compaction-retention=1h",
        ]
        .map(str::to_owned)
        .to_vec();
        if secure {
            let files = [("trusted-ca", "ca"), ("cert", "cert"), ("key", "key")];
            let files = files
                .map(|(option, name)| format!("--{option}-file={}", home.join(name).display()));
            arguments.extend(files);
            arguments.push("--client-cert-auth".to_owned());
        }
        let daemon = Daemon::new(name.clone(), home.join("etcd.log"), WITHIN);
        Self {
            name,
            home,
            place,
            account,
            program,
            ports: Mutex::new(ports),
            scheme,
            arguments,
            daemon,
        }
    }

    /// The name, such as `e1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect.
    pub fn endpoint(&self) -> String {
        self.place.url(self.scheme, self.ports.lock()[0].port())
    }

    /// The process number while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.pid()
    }

    /// Starts the member unless it runs, and waits until it serves.
    pub async fn start(&self) -> Result<(), RigError> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Starts the process unless it runs, without waiting for it.
    pub fn spawn(&self) -> Result<(), RigError> {
        if self.pid().is_some() {
            return Ok(());
        }
        for port in self.ports.lock().iter_mut() {
            port.make_way();
        }
        let mut command = self.place.command(&self.program, self.account);
        command.args(&self.arguments).current_dir(&self.home);
        self.daemon.spawn(&mut command, self.account).map(drop)
    }

    /// Kills the process and returns once it is gone; works on a frozen one too.
    pub fn kill(&self) -> Result<(), RigError> {
        self.daemon.kill()
    }

    /// Stops the process where it stands (SIGSTOP) and returns once it does: the kernel still
    /// accepts connections, and nobody answers.
    pub fn freeze(&self) -> Result<(), RigError> {
        self.daemon.freeze()
    }

    /// Lets a frozen process run on.
    pub fn thaw(&self) -> Result<(), RigError> {
        self.daemon.thaw()
    }

    /// Waits until the member serves reads and writes, which takes a majority.
    pub async fn wait_ready(&self) -> Result<(), RigError> {
        let healthy = async || {
            let answer = self.ask(2, "GET /health", "{}").await;
            answer.is_some_and(|answer| answer["health"] == "true")
        };
        self.daemon.wait("serve", healthy).await
    }

    async fn leads(&self) -> bool {
        let status = self
            .post("/v3/maintenance/status", &Value::Object(Default::default()))
            .await;
        status.is_some_and(|status| {
            let leader = status["leader"].as_str();
            leader.is_some() && leader == status["header"]["member_id"].as_str()
        })
    }

    /// Asks etcd's JSON gateway, which is there unless clients need TLS; none when there is no
    /// answer in time.
    pub async fn post(&self, path: &str, question: &Value) -> Option<Value> {
        self.ask(0, &format!("POST {path}"), &question.to_string())
            .await
    }

    async fn ask(&self, port: usize, what: &str, body: &str) -> Option<Value> {
        let port = self.ports.lock()[port].port();
        let asked = async {
            let mut stream = TcpStream::connect((self.place.address, port)).await.ok()?;
            let request = format!(
                "{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            let answer = String::from_utf8(answer).ok()?;
            let body = answer.get(answer.find('{')?..=answer.rfind('}')?)?;
            serde_json::from_str(body).ok()
        };
        tokio::time::timeout(ASKED, asked).await.ok()?
    }
}
