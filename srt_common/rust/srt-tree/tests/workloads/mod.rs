//! What the core does all day, for `cargo bench` and for counting instructions: the same work at
//! every run, after the same preparation.

use std::time::{Duration, Instant};

use srt_tree::packed::Packer;
use srt_tree::{
    Config, Drafts, Forest, Lane, Mode, Origin, PromptKey, Rng, RowId, RowRequest, SequenceId,
    SoftTarget, Step, Update,
};

const VOCABULARY: u32 = 300;
const RESPONSE: usize = 200;
const NUM_PROMPTS: u64 = 20;
const NUM_UPDATES: u64 = 100;
const NUM_ROWS: usize = 32;
const PROMPT: [i32; 3] = [1, 2, 3];

/// Prepares a workload, then carries it out at least until `num_units` are done; returns how many
/// were, and the time they took.
pub fn run(name: &str, num_units: usize) -> (usize, Duration) {
    let mut text = Text(Rng::new(1, 2));
    let mut forest = forest();
    match name {
        "insert" => {
            fill(&mut forest, &mut text, NUM_UPDATES);
            let updates = (0..NUM_UPDATES).map(|id| (id % NUM_PROMPTS, id, text.packed()));
            let mut updates: Vec<_> = updates.collect();
            timed(num_units, || {
                for update in &mut updates {
                    update.1 += NUM_UPDATES;
                }
                updates.iter().map(|update| extend(&mut forest, update)).sum()
            })
        }
        "point-mass" | "sampled" => {
            fill(&mut forest, &mut text, 200);
            let mode = if name == "sampled" { Mode::Sampled } else { Mode::PointMass };
            let mut batch = Batch::new(&mut forest, mode);
            batch.step(&mut forest, &mut text);
            timed(num_units, || batch.step(&mut forest, &mut text))
        }
        "turn" => {
            fill(&mut forest, &mut text, 20);
            let mut turns = Turns { context: Vec::new(), previous: None, id: 50_000 };
            turns.begin(&mut forest, &mut text, 6_000);
            timed(num_units, || turns.begin(&mut forest, &mut text, 20))
        }
        _ => {
            fill(&mut forest, &mut text, 200);
            timed(num_units, || copy(&forest))
        }
    }
}

/// Works until `num_units` are done; `work` says how many it did.
fn timed(num_units: usize, mut work: impl FnMut() -> usize) -> (usize, Duration) {
    let (start, mut done) = (Instant::now(), 0);
    while done < num_units {
        done += work();
    }
    (done, start.elapsed())
}

/// Text that repeats itself about as often as sampled text does.
struct Text(Rng);

impl Text {
    fn next(&mut self, token: u32) -> u32 {
        let choice = (self.0.uniform().powi(3) * 6.0) as u32;
        (token * 31 + 7 + choice * 11) % VOCABULARY
    }

    fn packed(&mut self) -> Packer {
        let (mut packed, mut token) = (Packer::default(), 5);
        for _ in 0..RESPONSE {
            let rivals =
                [1, 2].map(|it| SoftTarget::new((token * 31 + 7 + it * 11) % VOCABULARY, 80));
            token = self.next(token);
            packed.push(token, &[&[SoftTarget::new(token, 20)], &rivals[..]].concat());
        }
        packed
    }
}

fn forest() -> Forest {
    let config = Config {
        engine_id: 1,
        max_bytes: 1 << 32,
        seed: 1,
        soft_targets: true,
        max_recent_positions: 32,
        num_threads: 1,
        max_early_tokens: 0,
        max_outbox_tokens: 0,
    };
    Forest::new(config).unwrap()
}

fn key(prompt: u64) -> PromptKey {
    PromptKey([prompt as u8; 16])
}

fn extend(forest: &mut Forest, (prompt, id, packed): &(u64, u64, Packer)) -> usize {
    let update = Update {
        prompt_key: key(*prompt),
        sequence_id: SequenceId(*id),
        offset: 0,
        origin: Origin { policy_version: 0, lane: Lane::Policy, engine_id: 2 },
        is_observation: false,
        tokens: &packed.tokens,
        soft: &packed.soft,
    };
    forest.extend(&update).unwrap()
}

fn fill(forest: &mut Forest, text: &mut Text, num_sequences: u64) {
    for id in 0..num_sequences {
        extend(forest, &(id % NUM_PROMPTS, id, text.packed()));
    }
}

fn open(forest: &mut Forest, request: (u64, u64), context: &[i32], mode: Mode) -> RowId {
    let (prompt, id) = request;
    let request = RowRequest {
        prompt_key: key(prompt),
        prompt: &PROMPT,
        context,
        sequence_id: SequenceId(id),
        previous: (id > 50_000).then_some(SequenceId(50_000)),
        policy_version: 1,
        lane: Lane::Policy,
        mode,
        max_new_tokens: 0,
        stop_tokens: &[],
    };
    forest.open_row(&request).unwrap()
}

/// Rows that decode together; of each draft the first half is accepted.
struct Batch {
    rows: Vec<u64>,
    last: Vec<u32>,
    drafts: Drafts,
}

impl Batch {
    fn new(forest: &mut Forest, mode: Mode) -> Self {
        let rows =
            (0..NUM_ROWS as u64).map(|n| open(forest, (n % NUM_PROMPTS, 20_000 + n), &[], mode));
        let drafts = Drafts { offsets: vec![0; NUM_ROWS + 1], ..Drafts::default() };
        Self { rows: rows.map(|row| row.0).collect(), last: vec![5; NUM_ROWS], drafts }
    }

    fn step(&mut self, forest: &mut Forest, text: &mut Text) -> usize {
        let (mut offsets, mut tokens, mut verified) = (vec![0], Vec::new(), Vec::new());
        for (pair, last) in self.drafts.offsets.windows(2).zip(&mut self.last) {
            let draft = &self.drafts.token_ids[pair[0] as usize..pair[1] as usize];
            let accepted = &draft[..draft.len() / 2];
            tokens.extend_from_slice(accepted);
            *last = text.next(accepted.last().map_or(*last, |&it| it as u32));
            tokens.push(*last as i32);
            offsets.push(tokens.len() as i32);
            verified.push(draft.len() as i32);
        }
        self.drafts = forest.step(&step_of(&self.rows, &offsets, &tokens, &verified)).unwrap();
        self.drafts.token_ids.len()
    }
}

fn step_of<'a>(
    rows: &'a [u64],
    offsets: &'a [i32],
    tokens: &'a [i32],
    verified: &'a [i32],
) -> Step<'a> {
    Step {
        rows,
        new_offsets: offsets,
        new_tokens: tokens,
        num_verified: verified,
        overlap: &[],
        soft_offsets: &[],
        soft_token_ids: &[],
        soft_probs: &[],
        max_draft_tokens: &[16; NUM_ROWS][..rows.len()],
        min_survival: 0.1,
    }
}

/// A conversation that goes on and on.
struct Turns {
    context: Vec<i32>,
    previous: Option<RowId>,
    id: u64,
}

impl Turns {
    /// The environment says `num_tokens`, and a turn begins.
    fn begin(&mut self, forest: &mut Forest, text: &mut Text, num_tokens: usize) -> usize {
        if let Some(row) = self.previous.take() {
            forest.close_row(row).unwrap();
        }
        for _ in 0..num_tokens {
            let last = self.context.last().map_or(5, |&it| it as u32);
            self.context.push(text.next(last) as i32);
        }
        self.previous = Some(open(forest, (0, self.id), &self.context, Mode::Sampled));
        self.id += 1;
        1
    }
}

/// Writes and loads an image of every tree; returns how many tokens they hold.
fn copy(forest: &Forest) -> usize {
    let mut other = self::forest();
    for key in forest.prompt_keys() {
        other.load_snapshot(&forest.snapshot(key).unwrap()).unwrap();
    }
    other.stats().num_tokens
}
