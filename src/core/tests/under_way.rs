//! What is under way on a node: for how long it goes on when the node is silent, or not known to lead.

use super::{Cluster, NOW};
use crate::core::lsn::Timeline;
use crate::core::replication::Bond;
use crate::core::topology::{
    HASTE_US, Incarnation, Life, NodeId, PATIENCE_US, Ruling, Topology, Writer,
};

#[test]
fn what_is_under_way_on_a_silent_node_goes_on_for_a_while() {
    let mut cluster = Cluster::even();
    let life = cluster.of(1).clone();
    let mut node = cluster.0.nodes.remove(1);
    let old = life.incarnation;
    node.fall_silent(NOW);
    // A second loss, before it has answered again, is none.
    node.fall_silent(NOW + 5);
    assert!(node.usable().is_none() && node.gauge_of(old).is_some());
    assert!(node.keeps(old, NOW + HASTE_US - 1, HASTE_US));
    assert!(!node.keeps(old, NOW + HASTE_US, HASTE_US));
    assert!(node.keeps(old, NOW + HASTE_US, PATIENCE_US));
    assert!(!node.keeps(old, NOW + PATIENCE_US, PATIENCE_US));
    assert!(!node.keeps(Incarnation(77), NOW, PATIENCE_US));
    node.barred = true;
    assert!(!node.keeps(old, NOW, PATIENCE_US));
    (node.barred, node.suspended) = (false, true);
    assert!(node.keeps(old, NOW, PATIENCE_US));
    node.suspended = false;

    // The same run of the server: nothing has ended.
    assert!(!node.live(life.clone()));
    assert!(node.keeps(old, NOW + 2 * PATIENCE_US, 0) && node.previous.is_empty());

    // Another one.
    node.fall_silent(NOW);
    let next = Life {
        incarnation: Incarnation(9),
        ..life
    };
    assert!(node.live(next));
    assert!(!node.keeps(old, NOW, PATIENCE_US) && node.gauge_of(old).is_some());
    assert_eq!(node.previous.len(), 1);
}

#[test]
fn what_is_under_way_outlives_a_ruling_while_the_primary_is_known_to_lead() {
    let mut cluster = Cluster::even().0;
    let ruling = Ruling {
        epoch: 1,
        writer: Writer::Only(NodeId(0), Timeline(0)),
        ..Ruling::default()
    };
    cluster.rule(ruling);
    assert_eq!(cluster.ruling(), ruling);
    let life = cluster.nodes[0].usable().unwrap().incarnation;
    let keeps = |cluster: &Topology| cluster.nodes[0].keeps(life, NOW, PATIENCE_US);
    let closed = |cluster: &Topology| {
        let other = cluster.nodes[1].usable().is_some();
        other && cluster.primary().is_none() && cluster.nodes[0].usable().is_none()
    };
    for _ in 0..2 {
        cluster.expire(true);
        assert!(closed(&cluster) && keeps(&cluster));
    }
    // Somebody else may lead by now.
    for _ in 0..2 {
        cluster.expire(false);
        assert!(closed(&cluster) && !keeps(&cluster));
    }
    // It leads still.
    cluster.rule(ruling);
    assert_eq!(cluster.nodes[0].usable().unwrap().incarnation, life);
    cluster.expire(false);
    assert!(closed(&cluster) && !keeps(&cluster));
}

#[test]
fn a_replication_connection_outlives_the_loss_of_a_monitoring_connection() {
    let mut cluster = Cluster::even();
    let bonds = [None, Some(NodeId(0)), Some(NodeId(1))];
    let bonds = bonds.map(|named| Bond::new(named, &cluster.0).unwrap());
    let held = |cluster: &Cluster, now| bonds.map(|bond| bond.holds(&cluster.0, now));
    for node in &mut cluster.0.nodes {
        node.fall_silent(NOW);
    }
    assert_eq!(held(&cluster, NOW + 1), [true; 3]);
    assert_eq!(held(&cluster, NOW + PATIENCE_US), [false; 3]);
    cluster.0.nodes[0].barred = true;
    assert_eq!(held(&cluster, NOW + 1), [false, false, true]);
}
