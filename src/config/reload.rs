//! What changes when a configuration is read again while the proxy runs: every key is either taken
//! over at once or kept until a restart, and the keys that differ are named.

use std::collections::{BTreeSet, HashMap};

use super::sections::{
    Admin, Auth, ClientTls, Config, Failover, FailoverMode, Log, Memory, Monitor, Node, Pool,
    Routing, Tls, User,
};

/// A configuration that takes over from another one.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What is in force from now on.
    pub config: Config,
    /// The keys that were taken over, such as `pool.size`.
    pub applied: Vec<String>,
    /// The keys that differ and are not in force before a restart.
    pub restart: Vec<String>,
}

/// Takes over from `wanted` whatever may change under a `running` proxy.
// Each struct is taken apart without `..`: a new key does not compile before it has its place here.
pub fn reload(running: &Config, wanted: Config) -> Reload {
    let Config {
        file: _,
        shows_secrets: _,
        listen,
        workers,
        max_clients,
        admin,
        nodes,
        agents,
        monitor,
        pool,
        memory,
        auth,
        tls,
        routing,
        failover,
        hold_timeout,
        log,
    } = wanted;
    let mut next = running.clone();
    let mut differences = Differences::default();
    differences.keep("listen", &next.listen, &listen);
    differences.keep("workers", &next.workers, &workers);
    differences.take("max_clients", &mut next.max_clients, max_clients);
    let Admin {
        http,
        secret,
        users,
    } = admin;
    differences.keep("admin.http", &next.admin.http, &http);
    differences.take("admin.secret", &mut next.admin.secret, secret);
    differences.take("admin.users", &mut next.admin.users, users);
    differences.nodes(&mut next.nodes, nodes);
    differences.keep("agents", &next.agents, &agents);
    differences.monitor(&mut next.monitor, monitor);
    differences.pool(&mut next.pool, pool);
    let Memory { total, session } = memory;
    differences.take("memory.total", &mut next.memory.total, total);
    differences.take("memory.session", &mut next.memory.session, session);
    differences.auth(&mut next.auth, auth);
    differences.tls(&mut next.tls, tls);
    differences.routing(&mut next.routing, routing);
    match (&mut next.failover, failover) {
        (Some(running), Some(wanted)) => differences.failover(running, wanted),
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => differences.restart.push("failover.mode".to_owned()),
    }
    let hold = "failover.hold_timeout";
    differences.take(hold, &mut next.hold_timeout, hold_timeout);
    let Log { filter, format } = log;
    differences.take("log.filter", &mut next.log.filter, filter);
    differences.keep("log.format", &next.log.format, &format);
    Reload {
        config: next,
        applied: differences.applied,
        restart: differences.restart,
    }
}

/// The keys that differ.
#[derive(Default)]
struct Differences {
    applied: Vec<String>,
    restart: Vec<String>,
}

impl Differences {
    fn take<T: PartialEq>(&mut self, key: &str, running: &mut T, wanted: T) {
        if *running != wanted {
            *running = wanted;
            self.applied.push(key.to_owned());
        }
    }

    fn keep<T: PartialEq>(&mut self, key: &str, running: &T, wanted: &T) {
        if running != wanted {
            self.restart.push(key.to_owned());
        }
    }

    /// Nodes are known by their names; their order, which is their identity, stays.
    fn nodes(&mut self, running: &mut [Node], wanted: Vec<Node>) {
        let mut wanted: HashMap<String, Node> = wanted
            .into_iter()
            .map(|node| (node.name.clone(), node))
            .collect();
        for known in running {
            let name = known.name.clone();
            let Some(node) = wanted.remove(&name) else {
                self.restart.push(format!("nodes.{name}"));
                continue;
            };
            let key = |key: &str| format!("nodes.{name}.{key}");
            let Node {
                name: _,
                host,
                port,
                zone,
                weight,
                agent,
                promote_priority,
            } = node;
            self.keep(&key("host"), &known.host, &host);
            self.keep(&key("port"), &known.port, &port);
            self.take(&key("zone"), &mut known.zone, zone);
            self.take(&key("weight"), &mut known.weight, weight);
            self.keep(&key("agent"), &known.agent, &agent);
            let priority = &mut known.promote_priority;
            self.take(&key("promote_priority"), priority, promote_priority);
        }
        let new: BTreeSet<String> = wanted.into_keys().collect();
        let new = new.into_iter().map(|name| format!("nodes.{name}"));
        self.restart.extend(new);
    }

    fn monitor(&mut self, running: &mut Monitor, wanted: Monitor) {
        let Monitor {
            user,
            password,
            database,
            interval,
            timeout,
            busy_interval,
        } = wanted;
        self.take("monitor.user", &mut running.user, user);
        self.take("monitor.password", &mut running.password, password);
        self.take("monitor.database", &mut running.database, database);
        self.take("monitor.interval", &mut running.interval, interval);
        self.take("monitor.timeout", &mut running.timeout, timeout);
        let busy = &mut running.busy_interval;
        self.take("monitor.busy_interval", busy, busy_interval);
    }

    fn pool(&mut self, running: &mut Pool, wanted: Pool) {
        let Pool {
            mode,
            size,
            wait_timeout,
            connect_timeout,
            idle_timeout,
            max_prepared,
        } = wanted;
        self.keep("pool.mode", &running.mode, &mode);
        self.take("pool.size", &mut running.size, size);
        self.take("pool.wait_timeout", &mut running.wait_timeout, wait_timeout);
        let connect = &mut running.connect_timeout;
        self.take("pool.connect_timeout", connect, connect_timeout);
        self.take("pool.idle_timeout", &mut running.idle_timeout, idle_timeout);
        self.take("pool.max_prepared", &mut running.max_prepared, max_prepared);
    }

    /// What proves a user depends on the method: under another one, no user is taken over.
    fn auth(&mut self, running: &mut Auth, wanted: Auth) {
        let Auth { method, users } = wanted;
        if method != running.method {
            self.restart.push("auth.method".to_owned());
            return self.keep("auth.users", &running.users, &users);
        }
        let named = |users: &HashMap<String, User>| users.keys().cloned().collect::<BTreeSet<_>>();
        let (before, after) = (named(&running.users), named(&users));
        let differs = |name: &&String| running.users.get(*name) != users.get(*name);
        let changed = before.union(&after).filter(differs);
        let changed = changed.map(|name| format!("auth.users.{name}"));
        self.applied.extend(changed);
        running.users = users;
    }

    /// Files count by what they hold.
    fn tls(&mut self, running: &mut Tls, wanted: Tls) {
        let Tls { client } = wanted;
        let ClientTls {
            mode,
            identity,
            ca,
            client_cert,
        } = client;
        let client = &mut running.client;
        self.take("tls.client.mode", &mut client.mode, mode);
        self.take("tls.client.cert_file", &mut client.identity, identity);
        self.take("tls.client.ca_file", &mut client.ca, ca);
        let asked = &mut client.client_cert;
        self.take("tls.client.client_cert", asked, client_cert);
    }

    fn routing(&mut self, running: &mut Routing, wanted: Routing) {
        let Routing {
            consistency,
            databases,
            users,
            catchup_wait,
            max_lag,
            zone,
        } = wanted;
        let level = &mut running.consistency;
        self.take("routing.consistency", level, consistency);
        self.take("routing.databases", &mut running.databases, databases);
        self.take("routing.users", &mut running.users, users);
        let wait = &mut running.catchup_wait;
        self.take("routing.catchup_wait", wait, catchup_wait);
        self.take("routing.max_lag", &mut running.max_lag, max_lag);
        self.take("routing.zone", &mut running.zone, zone);
    }

    fn failover(&mut self, running: &mut Failover, wanted: Failover) {
        let Failover {
            mode,
            durability,
            timeout,
            lease,
            failsafe,
            max_lost_bytes,
            fence_command,
            rejoin_command,
            fencing,
            on_lost_writes,
            slots,
            resolve_commits,
            cluster,
            coordination,
            replication,
        } = wanted;
        // Whether anybody here promotes at all decides about leases, and is no matter of a moment.
        let observes = |mode| mode == FailoverMode::Observe;
        if observes(mode) == observes(running.mode) {
            self.take("failover.mode", &mut running.mode, mode);
            let login = &mut running.replication;
            self.take("failover.replication", login, replication);
        } else {
            self.restart.push("failover.mode".to_owned());
            // Whoever promotes needs it.
            let login = &running.replication;
            self.keep("failover.replication", login, &replication);
        }
        self.take("failover.slots", &mut running.slots, slots);
        if durability == running.durability {
            let bytes = &mut running.max_lost_bytes;
            self.take("failover.max_lost_bytes", bytes, max_lost_bytes);
        } else {
            self.restart.push("failover.durability".to_owned());
        }
        self.take("failover.timeout", &mut running.timeout, timeout);
        // A lease that was granted under the old length is still running.
        self.keep("failover.lease", &running.lease, &lease);
        self.take("failover.failsafe", &mut running.failsafe, failsafe);
        let fence = &mut running.fence_command;
        self.take("failover.fence_command", fence, fence_command);
        let rejoin = &mut running.rejoin_command;
        self.take("failover.rejoin_command", rejoin, rejoin_command);
        self.take("failover.fencing", &mut running.fencing, fencing);
        let telling = &mut running.on_lost_writes;
        self.take("failover.on_lost_writes", telling, on_lost_writes);
        let resolve = &mut running.resolve_commits;
        self.take("failover.resolve_commits", resolve, resolve_commits);
        self.keep("failover.cluster", &running.cluster, &cluster);
        self.keep(
            "failover.coordination",
            &running.coordination,
            &coordination,
        );
    }
}
