//! Every input the fuzzer found worth keeping runs without a finding; `make fuzz` looks for more.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fuzzed;

use std::path::Path;

#[test]
fn the_fuzzers_corpus_runs_without_a_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/operations");
    let mut inputs: Vec<_> = folder.read_dir().unwrap().map(|it| it.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 50, "{} inputs", inputs.len());
    for input in inputs {
        fuzzed::run(&std::fs::read(input).unwrap());
    }
}
