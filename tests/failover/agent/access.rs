//! Only who proves itself in every way that is asked for gets an answer; and no answer takes for ever.

use std::time::{Duration, Instant};

use pgcauseway::agent::api::{RefusalCode, Role, StopMode};
use pgcauseway::agent::client::{AgentClient, AgentError};
use pgcauseway::config::{AgentUrl, Agents, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{builder, client, client_with, config, source, status, trust};
use crate::support::{BOUND, becomes};

#[tokio::test]
async fn only_who_proves_itself_gets_an_answer() {
    let cluster = builder("access").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let right = trust(&cluster);

    let told = status(&client(&cluster, primary)).await;
    assert_eq!(told.node, "pg1");
    assert_eq!(told.postmaster.pid, primary.pid());
    assert!(told.postmaster.running && told.postmaster.ready && !told.postmaster.frozen);
    assert_eq!((told.role, told.timeline), (Some(Role::Primary), Some(1)));
    assert!(told.answers, "{told:?}");
    assert_eq!(told.version, cluster.binaries().version());
    let identifier: String = primary
        .query("select system_identifier::text from pg_control_system()")
        .await
        .unwrap();
    assert_eq!(told.system_identifier.as_deref(), Some(identifier.as_str()));
    assert_eq!(
        (told.lease, told.highest_epoch, told.governed),
        (None, 0, false)
    );
    let told = status(&client(&cluster, standby)).await;
    assert_eq!((told.role, told.timeline), (Some(Role::Standby), Some(1)));
    assert_eq!(told.cluster_state.as_deref(), Some("in archive recovery"));

    for secret in [None, Some("wrong"), Some("")] {
        let agents = Agents {
            secret: secret.map(Secret::new),
            ..right.clone()
        };
        let error = client_with(&cluster, primary, &agents)
            .status(BOUND)
            .await
            .unwrap_err();
        assert_eq!(error.refusal(), Some(RefusalCode::Unauthorized), "{error}");
    }
    let no_certificate = Agents {
        client: None,
        ..right.clone()
    };
    let error = client_with(&cluster, primary, &no_certificate)
        .status(BOUND)
        .await
        .unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
    println!("{error}");

    // Plain HTTP gets no HTTP answer.
    let url = config(&cluster).nodes[0].agent.clone().unwrap();
    let mut plain = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .unwrap();
    plain
        .write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(BOUND, plain.read_to_end(&mut answer)).await;
    let _ = read.expect("the agent hangs up");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    // The secret is nowhere to be read.
    let log = std::fs::read_to_string(primary.agent().unwrap().log()).unwrap();
    assert!(!log.contains(right.secret.unwrap().reveal()), "{log}");
}

#[tokio::test]
async fn a_crowd_at_the_door_holds_nobody_up() {
    let cluster = builder("crowd").standbys(0).start().await.unwrap();
    let url = config(&cluster).nodes[0].agent.clone().unwrap();
    let agent = client(&cluster, cluster.primary());
    let mut crowd = Vec::new();
    for _ in 0..700 {
        let stranger = TcpStream::connect((url.host.as_str(), url.port)).await;
        crowd.push(stranger.unwrap());
    }
    // Within what a new proxy would have for a lease before it runs out.
    let told = agent.status(Duration::from_secs(2)).await;
    assert!(told.is_ok(), "{told:?}");
}

#[tokio::test]
async fn what_is_meant_for_another_agent_is_refused() {
    let cluster = builder("meant").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let ours = client(&cluster, primary).of("pg1");
    let system: u64 = status(&ours)
        .await
        .system_identifier
        .unwrap()
        .parse()
        .unwrap();
    ours.expect(system);
    let ttl = Duration::from_secs(600);
    ours.lease(4, "a", ttl, BOUND).await.unwrap();

    // The address of pg1's agent where that of pg3's should be.
    let other = client(&cluster, primary).of("pg3");
    let error = other.status(BOUND).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::OtherNode), "{error}");
    println!("{error}");
    // The same name in another cluster.
    let elsewhere = client(&cluster, standby).of("pg2");
    elsewhere.expect(system + 1);
    for (agent, node) in [(&other, primary), (&elsewhere, standby)] {
        let pid = node.pid();
        let refused = [
            agent.stop(9, StopMode::Immediate, BOUND).await.map(drop),
            agent.start(9, Role::Standby, None, BOUND).await.map(drop),
            agent.announce(9, BOUND).await.map(drop),
            agent.release(9, BOUND).await.map(drop),
            agent
                .rejoin(9, source(&cluster, primary), true, BOUND)
                .await
                .map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert_eq!(error.refusal(), Some(RefusalCode::OtherNode), "{error}");
        }
        assert!(pid.is_some() && node.pid() == pid);
    }
    let granted = elsewhere.lease(9, "a", ttl, BOUND).await.unwrap_err();
    assert_eq!(granted.refusal(), Some(RefusalCode::OtherNode), "{granted}");
    // Who names nobody means whoever answers, as older proxies do.
    let told = status(&client(&cluster, primary)).await;
    assert!(told.highest_epoch == 4 && told.lease.is_some());
}

#[tokio::test]
async fn an_agent_that_does_not_answer_costs_its_deadline_and_no_more() {
    let cluster = builder("silent").standbys(0).start().await.unwrap();
    let agents = trust(&cluster);
    // Accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = AgentUrl {
        host: "127.0.0.1".to_owned(),
        port: silent.local_addr().unwrap().port(),
    };
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(accepted) = silent.accept().await {
            held.push(accepted);
        }
    });
    let within = Duration::from_millis(200);
    let asked = Instant::now();
    let error = AgentClient::new(&url, &agents)
        .unwrap()
        .status(within)
        .await
        .unwrap_err();
    assert!(matches!(error, AgentError::TooLate { .. }), "{error}");
    assert!(asked.elapsed() >= within && asked.elapsed() < BOUND);
    holding.abort();

    // A frozen agent is as silent, and answers once it thaws.
    let node = cluster.primary();
    let (agent, process) = (client(&cluster, node), node.agent().unwrap());
    process.freeze().unwrap();
    let error = agent.status(within).await.unwrap_err();
    assert!(matches!(error, AgentError::TooLate { .. }), "{error}");
    process.thaw().unwrap();
    status(&agent).await;

    // A dead one refuses the connection, and its server runs on.
    process.kill().unwrap();
    let error = agent.status(BOUND).await.unwrap_err();
    assert!(
        matches!(error, AgentError::Unreachable { refused: true, .. }),
        "{error}"
    );
    assert_eq!(node.query::<i32>("select 1").await.unwrap(), 1);
    process.start().await.unwrap();
    assert_eq!(status(&agent).await.postmaster.pid, node.pid());

    // While its server is frozen it says so, at once.
    node.freeze().unwrap();
    becomes("the frozen server is seen", async || {
        status(&agent).await.postmaster.frozen
    })
    .await;
    node.thaw().unwrap();
}
