//! Nothing that a client sends can hurt: bad input is answered with an error or an end, other
//! sessions go on, and nothing stays behind.

mod cancels;
mod departures;
mod logins;
mod memory;
mod messages;
mod startup;
