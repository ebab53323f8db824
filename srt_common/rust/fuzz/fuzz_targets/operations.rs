//! Random operations on a forest: see `srt-tree/tests/fuzzed`.
#![no_main]

#[path = "../../srt-tree/tests/fuzzed/mod.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::run(data));
