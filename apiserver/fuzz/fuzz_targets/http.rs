//! Bytes of a hostile client. `cargo +nightly fuzz run http` in `apiserver/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pintle_apiserver::front::hostile::http(data));
