//! Bytes as each kind of message. `cargo +nightly fuzz run messages` in `wire/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pintle_wire::hostile::messages(data));
