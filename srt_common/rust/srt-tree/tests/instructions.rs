//! No workload takes more instructions than the bound written here, counted by callgrind: unlike
//! seconds these are the same on a busy machine. Skipped where valgrind is missing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod workloads;

use std::path::Path;
use std::process::Command;

/// Workload, how many units, and the most instructions for each: a tenth above what was counted
/// when the bound was set.
const BOUNDS: [(&str, usize, f64); 5] = [
    ("insert", 20_000, 2_530.0),
    ("point-mass", 5_000, 7_180.0),
    ("sampled", 5_000, 9_140.0),
    ("turn", 50, 113_200.0),
    ("snapshot", 20_000, 2_960.0),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, name, num_units] = &arguments[..]
        && flag == "--work"
    {
        let (done, _) = workloads::run(name, num_units.parse().unwrap());
        eprintln!("done {done}");
        return;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: instruction counts (valgrind is missing)");
        return;
    }
    let mut exceeded = Vec::new();
    for (name, num_units, bound) in BOUNDS {
        let (before, _) = count(name, 0);
        let (after, done) = count(name, num_units);
        let each = (after - before) / done;
        eprintln!("{name}: {each:.0} instructions each, at most {bound}");
        if each > bound {
            exceeded.push(name);
        }
    }
    assert!(exceeded.is_empty(), "too many instructions: {exceeded:?}");
}

/// Instructions of a run of its own, and how many units it did.
fn count(name: &str, num_units: usize) -> (f64, f64) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind-{name}"));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--work", name, &num_units.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{said}");
    let done = said.lines().find_map(|line| line.strip_prefix("done ")).unwrap();
    let counts = std::fs::read_to_string(&out).unwrap();
    let total = counts.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap();
    (total.trim().parse().unwrap(), done.parse().unwrap())
}
