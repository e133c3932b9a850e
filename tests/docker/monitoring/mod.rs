//! Metrics, alerts, dashboard and logs, as those meet them who run Causeway: a real Prometheus scrapes
//! loaded proxies by the shipped configuration, every shipped query is asked of it, and each alert is
//! made to fire by its cause and to clear when that ends.

mod alerts;
mod dashboard;
mod documented;
mod load;
mod logs;
mod prometheus;
mod world;
