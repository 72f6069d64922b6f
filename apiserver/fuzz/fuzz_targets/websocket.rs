//! Bytes of a hostile client. `cargo +nightly fuzz run websocket` in `apiserver/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pintle_apiserver::front::hostile::websocket(data));
