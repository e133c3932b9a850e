//! One leader at a time, and a record that only it changes: on a file, and on a real etcd that is
//! killed, frozen and restarted under two and three proxies.

mod check;
mod etcd;
mod file;
mod processes;
mod secured;
mod witness;
