//! Bytes of a hostile peer. `cargo +nightly fuzz run conn` in `wire/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pintle_wire::hostile::connection(data));
