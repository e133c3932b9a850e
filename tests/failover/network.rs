//! Hosts in network namespaces: they reach each other until they are cut off, and again when healed.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use pgcauseway::rig::{Cluster, Etcd, Host, Net};

use crate::support::{BOUND, becomes, eventually, in_namespaces, need, this_test};

/// A listener on a host that answers each connection with a line.
fn serve(host: &Host) -> Child {
    let script = "import socket,sys\n\
                  s=socket.create_server(('0.0.0.0',7000))\n\
                  print('up',flush=True)\n\
                  while True: c,_=s.accept(); c.sendall(b'hello\\n'); c.close()";
    let mut child = host
        .command("python3")
        .args(["-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "up\n");
    child
}

/// Whether one host gets an answer from another within a second.
fn reaches(from: &Host, to: &Host) -> bool {
    let script = format!(
        "import socket; assert socket.create_connection(('{}',7000),1).recv(5)==b'hello'",
        to.address()
    );
    let output = from
        .command("python3")
        .args(["-c", &script])
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn pairs_are_cut_and_healed() {
    if !need("python3") || !in_namespaces(this_test!("pairs_are_cut_and_healed")) {
        return;
    }
    let net = Net::new(3).unwrap();
    let [one, two, three] = net.hosts() else {
        panic!("three hosts")
    };
    let mut servers: Vec<Child> = net.hosts().iter().map(serve).collect();
    eventually("all reach each other", || {
        reaches(one, two) && reaches(two, three) && reaches(three, one)
    });

    net.cut(0, 1).unwrap();
    assert!(!reaches(one, two) && !reaches(two, one));
    assert!(reaches(one, three) && reaches(three, two));
    net.isolate(2).unwrap();
    assert!(!reaches(one, three) && !reaches(two, three));
    // This process is beside the switch and reaches everybody, and is reached.
    TcpStream::connect_timeout(&(two.address(), 7000).into(), BOUND).unwrap();
    let listener = TcpListener::bind((net.ourselves(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "import socket; socket.create_connection(('{}',{port}),5)",
        net.ourselves()
    );
    assert!(
        three
            .command("python3")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );

    net.heal().unwrap();
    eventually("all reach each other again", || {
        reaches(one, two) && reaches(two, three) && reaches(three, one)
    });
    for server in &mut servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

#[tokio::test]
async fn servers_on_hosts_of_their_own_feel_a_cut() {
    let test = this_test!("servers_on_hosts_of_their_own_feel_a_cut");
    if !need("etcd") || !in_namespaces(test) {
        return;
    }
    let net = Net::new(5).unwrap();
    let cluster = Cluster::builder("cut")
        .standbys(1)
        .on(&net.hosts()[..2])
        .start()
        .await
        .unwrap();
    let [primary, standby] = cluster.nodes() else {
        panic!("two nodes")
    };
    primary.execute("create table t as select 1").await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    net.cut(0, 1).unwrap();
    let before = standby.replayed().await.unwrap();
    primary.execute("insert into t values (2)").await.unwrap();
    let written = primary.written().await.unwrap();
    // Sent, it would be there long before so many questions are answered; but it does not arrive.
    let sent = format!("select sent_lsn >= '{written}' from pg_stat_replication");
    primary.wait_for("send it", &sent).await.unwrap();
    assert!(before < written);
    for _ in 0..50 {
        assert!(standby.replayed().await.unwrap() < written);
    }
    net.heal().unwrap();
    standby.wait_replayed(written).await.unwrap();

    // The member that is cut off leads no more; the others choose another.
    let etcd = Etcd::start_on("cut-etcd", &net.hosts()[2..]).await.unwrap();
    let old = etcd.leader().await.unwrap().name().to_owned();
    let index = etcd
        .members()
        .iter()
        .position(|member| member.name() == old)
        .unwrap();
    net.isolate(2 + index).unwrap();
    becomes("the others choose a leader", async || {
        etcd.leader().await.unwrap().name() != old
    })
    .await;
    net.heal().unwrap();
    etcd.members()[index].wait_ready().await.unwrap();
}
