//! `pgcauseway::fuzz::batches` for any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgcauseway::fuzz::batches(data));
