//! Nothing that a client sends can hurt: bad input is answered with an error or an end, other
//! sessions go on, and nothing stays behind.

mod budget;
mod cancels;
mod cuts;
mod departures;
mod logins;
mod memory;
mod messages;
mod notifications_cut;
mod program;
mod relay;
mod server_cuts;
mod startup;
mod vanishing;
mod witnesses;
