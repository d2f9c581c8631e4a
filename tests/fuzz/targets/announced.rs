#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pusher_bridge_fuzz::run("announced", data));
