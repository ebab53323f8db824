//! Exact-p replay: how many tokens a step yields on recorded rollouts of known distributions.
//!
//! `cargo run --release --example replay -- DUMP [K] [TAU] [STEP...]`
//!
//! Every response of a step runs in lock step, with all earlier steps as history. Drafts are
//! coupled with the recorded text by the rejection rule read backwards: with u uniform, the
//! recorded x is the draft, accepted, if u p(x) < q(x), and else the draft follows max(q - p, 0).
//! The draft's law is exactly q, so the recorded text stays an exact sample.
//!
//! A dump is a list of little-endian 32-bit arrays, each after its length: prompt offsets, prompt
//! tokens, per response its step and prompt, response offsets and tokens, row offsets, ids and
//! probabilities (f32).
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use cpu_time::ProcessTime;
use srt_tree::packed::Packer;
use srt_tree::{
    Config, Draw, Forest, Lane, Mode, Origin, PromptKey, Rng, RowId, RowRequest, SequenceId,
    SoftRow, SoftTarget, Step, Update, Weighted,
};

const END_OF_TEXT: i32 = 1;

struct Testbed {
    prompt_offsets: Vec<u32>,
    prompt_tokens: Vec<i32>,
    steps: Vec<u32>,
    prompt_of: Vec<u32>,
    offsets: Vec<u32>,
    tokens: Vec<i32>,
    row_offsets: Vec<u32>,
    row_ids: Vec<i32>,
    row_probs: Vec<f32>,
}

impl Testbed {
    fn read(path: &str) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let mut words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let mut array = || -> Option<Vec<u32>> {
            let len = words.next()? as usize;
            let array: Vec<u32> = words.by_ref().take(len).collect();
            (array.len() == len).then_some(array)
        };
        let mut next = || array().ok_or("the dump is cut short");
        let ids = |words: Vec<u32>| words.into_iter().map(|word| word as i32).collect();
        Ok(Self {
            prompt_offsets: next()?,
            prompt_tokens: ids(next()?),
            steps: next()?,
            prompt_of: next()?,
            offsets: next()?,
            tokens: ids(next()?),
            row_offsets: next()?,
            row_ids: ids(next()?),
            row_probs: next()?.into_iter().map(f32::from_bits).collect(),
        })
    }

    fn of_step(&self, wanted: impl Fn(u32) -> bool) -> Vec<usize> {
        (0..self.steps.len()).filter(|&t| wanted(self.steps[t])).collect()
    }

    fn prompt(&self, t: usize) -> (PromptKey, &[i32]) {
        let prompt = self.prompt_of[t] as usize;
        let range = self.prompt_offsets[prompt] as usize..self.prompt_offsets[prompt + 1] as usize;
        (PromptKey([prompt as u8; 16]), &self.prompt_tokens[range])
    }

    /// Token numbers of a response.
    fn range(&self, t: usize) -> std::ops::Range<usize> {
        self.offsets[t] as usize..self.offsets[t + 1] as usize
    }

    /// The policy's distribution at a token.
    fn row(&self, n: usize) -> impl Iterator<Item = (i32, f32)> {
        let range = self.row_offsets[n] as usize..self.row_offsets[n + 1] as usize;
        self.row_ids[range.clone()].iter().copied().zip(self.row_probs[range].iter().copied())
    }

    fn probability(&self, n: usize, token: u32) -> f32 {
        self.row(n).find(|&(id, _)| id == token as i32).map_or(0.0, |(_, p)| p)
    }

    fn soft_row(&self, n: usize) -> SoftRow {
        let row = self.row(n).filter(|&(_, p)| p >= srt_tree::MIN_PROBABILITY);
        SoftRow::from_targets(row.map(|(id, p)| SoftTarget::from_probability(id as u32, p)))
    }
}

/// A response being decoded again.
struct Reply {
    row: RowId,
    end: usize,
    /// Its next token; those from `taken` on are yet to be told to the forest.
    next: usize,
    taken: usize,
    /// Accepted positions of the draft in hand, until the first refused one.
    num_accepted: usize,
    is_live: bool,
    overlap: Vec<f32>,
}

struct Coupled<'a> {
    bed: &'a Testbed,
    replies: HashMap<RowId, Reply>,
}

impl Draw for Coupled<'_> {
    fn draw(&mut self, row: RowId, position: usize, q: &[Weighted], rng: &mut Rng) -> usize {
        let Some(reply) = self.replies.get_mut(&row) else { return 0 };
        let n = reply.next + position;
        reply.is_live &= n < reply.end;
        if !reply.is_live {
            reply.overlap.push(f32::NAN);
            return pick(q, |it| it.probability, rng);
        }
        let p = |it: &Weighted| self.bed.probability(n, it.token);
        reply.overlap.push(q.iter().map(|it| p(it).min(it.probability)).sum());
        let x = self.bed.tokens[n] as u32;
        let found = q.iter().position(|it| it.token == x);
        let is_accepted = |at: &usize| {
            rng.uniform() * f64::from(self.bed.probability(n, x)) < f64::from(q[*at].probability)
        };
        if let Some(at) = found.filter(is_accepted) {
            reply.num_accepted += 1;
            return at;
        }
        reply.is_live = false;
        pick(q, |it| (it.probability - p(it)).max(0.0), rng)
    }
}

fn pick(q: &[Weighted], weight: impl Fn(&Weighted) -> f32, rng: &mut Rng) -> usize {
    let total: f32 = q.iter().map(&weight).sum();
    let mut left = rng.uniform() * f64::from(total);
    for (index, it) in q.iter().enumerate() {
        left -= f64::from(weight(it));
        if left < 0.0 {
            return index;
        }
    }
    q.len() - 1
}

#[derive(Default)]
struct Sums {
    tokens: usize,
    steps: usize,
    drafted: usize,
    accepted: usize,
    taken: Duration,
    bytes_per_token: f64,
    insert: Duration,
    inserted: usize,
}

fn add_history(
    bed: &Testbed,
    forest: &mut Forest,
    history: &[usize],
    sums: &mut Sums,
) -> Result<(), Box<dyn Error>> {
    for &t in history {
        let mut packed = Packer::default();
        bed.range(t).for_each(|n| packed.push(bed.tokens[n] as u32, bed.soft_row(n).as_slice()));
        let (prompt_key, prompt) = bed.prompt(t);
        let start = ProcessTime::now();
        forest.set_prompt(prompt_key, prompt)?;
        forest.extend(&Update {
            prompt_key,
            sequence_id: SequenceId(t as u64),
            offset: 0,
            origin: Origin { policy_version: bed.steps[t], lane: Lane::Policy, engine_id: 1 },
            is_observation: false,
            tokens: &packed.tokens,
            soft: &packed.soft,
        })?;
        sums.insert += start.elapsed();
        sums.inserted += bed.range(t).len();
    }
    Ok(())
}

fn open(bed: &Testbed, forest: &mut Forest, t: usize) -> Result<Reply, Box<dyn Error>> {
    let (prompt_key, prompt) = bed.prompt(t);
    let range = bed.range(t);
    let row = forest.open_row(&RowRequest {
        prompt_key,
        prompt,
        context: &[],
        sequence_id: SequenceId(t as u64),
        previous: None,
        policy_version: bed.steps[t],
        lane: Lane::Policy,
        mode: Mode::Sampled,
        max_new_tokens: 400,
        stop_tokens: &[END_OF_TEXT],
    })?;
    Ok(Reply {
        row,
        end: range.end,
        next: range.start,
        taken: range.start,
        num_accepted: 0,
        is_live: true,
        overlap: Vec::new(),
    })
}

/// One engine step of all running replies.
fn round(
    coupled: &mut Coupled<'_>,
    forest: &mut Forest,
    rows: &[RowId],
    (max_draft, tau): (i32, f64),
    sums: &mut Sums,
) -> Result<(), Box<dyn Error>> {
    let bed = coupled.bed;
    let (mut new_offsets, mut new_tokens, mut num_verified) = (vec![0], Vec::new(), Vec::new());
    let (mut overlap, mut soft_offsets) = (Vec::new(), vec![0]);
    let (mut soft_ids, mut soft_probs) = (Vec::new(), Vec::new());
    for row in rows {
        let Some(reply) = coupled.replies.get_mut(row) else { continue };
        num_verified.push(reply.overlap.len() as i32);
        overlap.append(&mut reply.overlap);
        for n in reply.taken..reply.next {
            new_tokens.push(bed.tokens[n]);
            let pairs: Vec<_> = bed.row(n).take(8).collect();
            soft_ids.extend(pairs.iter().map(|(id, _)| *id));
            soft_probs.extend(pairs.iter().map(|(_, p)| *p));
            soft_offsets.push(soft_ids.len() as i32);
        }
        new_offsets.push(new_tokens.len() as i32);
        (reply.taken, reply.num_accepted, reply.is_live) = (reply.next, 0, true);
    }
    let handles: Vec<u64> = rows.iter().map(|row| row.0).collect();
    let step = Step {
        rows: &handles,
        new_offsets: &new_offsets,
        new_tokens: &new_tokens,
        num_verified: &num_verified,
        overlap: &overlap,
        soft_offsets: &soft_offsets,
        soft_token_ids: &soft_ids,
        soft_probs: &soft_probs,
        max_draft_tokens: &vec![max_draft; rows.len()],
        min_survival: tau,
    };
    let start = ProcessTime::now();
    let drafts = forest.step_with(&step, coupled)?;
    sums.taken += start.elapsed();
    sums.drafted += drafts.token_ids.len();
    Ok(())
}

fn replay(bed: &Testbed, step: u32, k: i32, tau: f64) -> Result<Sums, Box<dyn Error>> {
    let mut forest = Forest::new(Config {
        engine_id: 1,
        max_bytes: 1 << 34,
        seed: 0,
        soft_targets: true,
        max_recent_positions: 32,
        max_early_tokens: 0,
        max_outbox_tokens: 0,
    })?;
    let mut sums = Sums::default();
    add_history(bed, &mut forest, &bed.of_step(|it| it < step), &mut sums)?;
    let mut coupled = Coupled { bed, replies: HashMap::new() };
    let mut rows = Vec::new();
    for t in bed.of_step(|it| it == step) {
        let reply = open(bed, &mut forest, t)?;
        rows.push(reply.row);
        coupled.replies.insert(reply.row, reply);
    }
    while !rows.is_empty() {
        round(&mut coupled, &mut forest, &rows, (k, tau), &mut sums)?;
        for row in &rows {
            let Some(reply) = coupled.replies.get_mut(row) else { continue };
            let num_emitted = (reply.num_accepted + 1).min(reply.end - reply.next);
            sums.accepted += reply.num_accepted;
            sums.tokens += num_emitted;
            sums.steps += 1;
            reply.next += num_emitted;
        }
        rows.retain(|row| coupled.replies.get(row).is_some_and(|it| it.next < it.end));
    }
    let stats = forest.stats();
    sums.bytes_per_token = stats.memory_bytes as f64 / stats.num_tokens.max(1) as f64;
    Ok(sums)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bed = Testbed::read(args.first().ok_or("usage: replay DUMP [K] [TAU] [STEP...]")?)?;
    let k = args.get(1).map_or(Ok(16), |k| k.parse())?;
    let tau = args.get(2).map_or(Ok(0.1), |tau| tau.parse())?;
    let steps: Result<Vec<u32>, _> = args.iter().skip(3).map(|step| step.parse()).collect();
    let steps = steps.map(|steps| if steps.is_empty() { vec![8, 10, 12, 14] } else { steps })?;
    let mut sums = Sums::default();
    for &step in &steps {
        let part = replay(&bed, step, k, tau)?;
        sums.tokens += part.tokens;
        sums.steps += part.steps;
        sums.drafted += part.drafted;
        sums.accepted += part.accepted;
        sums.taken += part.taken;
        sums.insert += part.insert;
        sums.inserted += part.inserted;
        sums.bytes_per_token = part.bytes_per_token;
    }
    let (num_steps, num_drafted) = (sums.steps as f64, sums.drafted as f64);
    let micros = sums.taken.as_secs_f64() * 1e6;
    println!(
        "tokens/step {:.3}  drafted/step {:.2}  precision {:.3}",
        sums.tokens as f64 / num_steps,
        num_drafted / num_steps,
        sums.accepted as f64 / num_drafted,
    );
    println!(
        "{:.2} us/row  {:.2} us/drafted token  {:.2} us/inserted token  {:.0} bytes/token",
        micros / num_steps,
        micros / num_drafted,
        sums.insert.as_secs_f64() * 1e6 / sums.inserted.max(1) as f64,
        sums.bytes_per_token,
    );
    Ok(())
}
