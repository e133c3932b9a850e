//! `pgcauseway::fuzz::startup_packet` for any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgcauseway::fuzz::startup_packet(data));
