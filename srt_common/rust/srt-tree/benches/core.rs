//! `cargo bench`: nanoseconds of what the core does all day, the median of several runs.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its table")]

#[path = "../tests/workloads/mod.rs"]
mod workloads;

/// Every workload with what its unit is.
const WORKLOADS: [(&str, &str); 5] = [
    ("insert", "token"),
    ("point-mass", "drafted token"),
    ("sampled", "drafted token"),
    ("turn", "turn of a conversation of 6,000 tokens"),
    ("snapshot", "token, written and loaded"),
];

const NUM_RUNS: usize = 9;
const NUM_UNITS: usize = 20_000;

fn main() {
    println!("{:<12} {:>12} {:>10} {:>10}  a", "workload", "median, ns", "least", "most");
    for (name, unit) in WORKLOADS {
        let num_units = if name == "turn" { 300 } else { NUM_UNITS };
        let mut ns: Vec<f64> = (0..NUM_RUNS)
            .map(|_| {
                let (done, took) = workloads::run(name, num_units);
                took.as_nanos() as f64 / done as f64
            })
            .collect();
        ns.sort_by(f64::total_cmp);
        let (median, most) = (ns[NUM_RUNS / 2], ns[NUM_RUNS - 1]);
        println!("{name:<12} {median:>12.1} {:>10.1} {most:>10.1}  {unit}", ns[0]);
    }
}
