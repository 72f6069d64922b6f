//! Bytes of a hostile client. `cargo +nightly fuzz run spdy` in `apiserver/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pintle_apiserver::front::hostile::spdy(data));
