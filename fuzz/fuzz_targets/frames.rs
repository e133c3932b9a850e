//! `pgcauseway::fuzz::frames` for any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgcauseway::fuzz::frames(data));
