//! Bytes as operations on a forest: what the fuzzer tries, and what its corpus replays.
//!
//! After every operation each invariant holds and memory is within its bound; an image loaded into
//! an empty forest gives the same image. Arguments are taken from the bytes as they are where a
//! call has to refuse nonsense, else cut to small ranges, so that operations meet.

use srt_tree::packed::Packer;
use srt_tree::{
    Config, Forest, LEARNED_KEY, Lane, Mode, Origin, PromptKey, RowId, RowRequest, SequenceId,
    SoftTarget, Step, Update, split_snapshot,
};

const MAX_OPERATIONS: usize = 200;
const BOUNDS: [usize; 4] = [3_000, 20_000, 60_000, 1 << 30];

/// Reads the bytes; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn small_ints(&mut self, max_len: usize) -> Vec<i32> {
        let len = self.below(max_len + 1);
        self.take(len).into_iter().map(|it| i32::from(it as i8)).collect()
    }

    fn tokens(&mut self, max_len: usize) -> Vec<i32> {
        let (len, mut state) = (self.below(max_len + 1), u32::from(self.byte()));
        let next = |_| {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            (state >> 16) as i32 % 5
        };
        (0..len).map(next).collect()
    }

    fn key(&mut self) -> PromptKey {
        PromptKey([self.below(3) as u8; 16])
    }

    fn id(&mut self) -> SequenceId {
        SequenceId(self.below(5) as u64)
    }
}

struct World {
    forest: Forest,
    rows: Vec<(RowId, usize)>,
    next_id: u64,
    max_bytes: usize,
}

/// Carries operations out until the bytes end.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let max_bytes = BOUNDS[bytes.below(BOUNDS.len())];
    let mut world = World { forest: forest(max_bytes), rows: Vec::new(), next_id: 100, max_bytes };
    for _ in 0..MAX_OPERATIONS {
        if bytes.0.is_empty() {
            break;
        }
        world.act(&mut bytes);
        world.forest.check().unwrap();
        assert!(
            world.forest.memory_bytes() <= world.max_bytes || world.forest.stats().num_prompts == 0
        );
    }
}

fn forest(max_bytes: usize) -> Forest {
    Forest::new(Config {
        engine_id: 1,
        max_bytes,
        seed: 4,
        soft_targets: true,
        max_recent_positions: 4,
        num_threads: 1,
        max_early_tokens: 100,
        max_outbox_tokens: 40,
    })
    .unwrap()
}

impl World {
    fn act(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(16) {
            0..=3 => self.extend(bytes),
            4 => self.extend_with_anything(bytes),
            5 => drop(self.forest.set_prompt(bytes.key(), &bytes.tokens(12))),
            6 => self.open(bytes),
            7 | 8 => self.step(bytes),
            9 => self.step_with_anything(bytes),
            10 => {
                if let Some((row, _)) = self.rows.pop() {
                    self.forest.close_row(row).unwrap();
                }
            }
            11 => self.copy(bytes),
            12 => {
                let image = bytes.take(60);
                assert!(self.forest.load_snapshot(&image).is_err());
            }
            13 => self.read(bytes),
            _ => self.remove(bytes),
        }
    }

    fn extend(&mut self, bytes: &mut Bytes<'_>) {
        let (key, id, offset) = (bytes.key(), bytes.id(), bytes.below(80) as u64);
        let mode = bytes.byte();
        let mut packed = Packer::default();
        for token in bytes.tokens(70) {
            let targets = [SoftTarget::new(token as u32, 9), SoftTarget::new(3, 99)];
            packed.push(token as u32, if mode & 1 == 0 { &[] } else { &targets });
        }
        let update = Update {
            prompt_key: key,
            sequence_id: id,
            offset: if mode & 2 == 0 { offset } else { 0 },
            origin: origin(mode),
            is_observation: mode & 0x30 == 0x30,
            tokens: &packed.tokens,
            soft: &packed.soft,
        };
        self.forest.extend(&update).unwrap();
    }

    fn extend_with_anything(&mut self, bytes: &mut Bytes<'_>) {
        let (num_tokens, num_soft) = (bytes.below(20), bytes.below(40));
        let (tokens, soft) = (bytes.take(num_tokens), bytes.take(num_soft));
        let update = Update {
            prompt_key: bytes.key(),
            sequence_id: bytes.id(),
            offset: u64::from(bytes.byte()) << bytes.below(64),
            origin: origin(bytes.byte()),
            is_observation: false,
            tokens: &tokens,
            soft: &soft,
        };
        drop(self.forest.extend(&update));
    }

    fn open(&mut self, bytes: &mut Bytes<'_>) {
        let (prompt, context) = (bytes.tokens(6), bytes.tokens(90));
        let mode = bytes.byte();
        let request = RowRequest {
            prompt_key: bytes.key(),
            prompt: &prompt,
            context: &context,
            sequence_id: SequenceId(self.next_id),
            previous: (mode & 8 == 0).then(|| SequenceId(self.next_id.saturating_sub(1))),
            policy_version: u32::from(mode & 1),
            lane: Lane::Policy,
            mode: if mode & 2 == 0 { Mode::Sampled } else { Mode::PointMass },
            max_new_tokens: bytes.below(40),
            stop_tokens: if mode & 4 == 0 { &[] } else { &[4] },
        };
        self.next_id += 1;
        if let Ok(row) = self.forest.open_row(&request) {
            self.rows.push((row, 0));
        }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let rows: Vec<u64> = self.rows.iter().map(|(row, _)| row.0).collect();
        let verified: Vec<i32> = self.rows.iter().map(|(_, drafted)| *drafted as i32).collect();
        let (mut offsets, mut tokens) = (vec![0], Vec::new());
        for _ in &rows {
            tokens.extend(bytes.tokens(9));
            offsets.push(tokens.len() as i32);
        }
        let max_draft_tokens = vec![bytes.below(12) as i32; rows.len()];
        let step = Step {
            rows: &rows,
            new_offsets: &offsets,
            new_tokens: &tokens,
            num_verified: &verified,
            overlap: &[],
            soft_offsets: &[],
            soft_token_ids: &[],
            soft_probs: &[],
            max_draft_tokens: &max_draft_tokens,
            min_survival: 0.05,
        };
        let offsets = self.forest.step(&step).unwrap().offsets;
        for ((_, drafted), pair) in self.rows.iter_mut().zip(offsets.windows(2)) {
            *drafted = (pair[1] - pair[0]) as usize;
        }
    }

    /// A step whose arrays fit by chance only. Refused ones have taken nothing in.
    fn step_with_anything(&mut self, bytes: &mut Bytes<'_>) {
        let rows: Vec<u64> = bytes.small_ints(3).into_iter().map(|it| it as u64).collect();
        let (offsets, tokens) = (bytes.small_ints(4), bytes.small_ints(4));
        let (verified, drafts) = (bytes.small_ints(3), bytes.small_ints(3));
        let (soft_offsets, soft_token_ids) = (bytes.small_ints(4), bytes.small_ints(4));
        let soft_probs: Vec<f32> = bytes.small_ints(4).iter().map(|&it| it as f32 / 50.0).collect();
        let overlap: Vec<f32> = bytes.small_ints(3).iter().map(|&it| it as f32 / 50.0).collect();
        let step = Step {
            rows: &rows,
            new_offsets: &offsets,
            new_tokens: &tokens,
            num_verified: &verified,
            overlap: &overlap,
            soft_offsets: &soft_offsets,
            soft_token_ids: &soft_token_ids,
            soft_probs: &soft_probs,
            max_draft_tokens: &drafts,
            min_survival: f64::from(bytes.byte()) / 200.0,
        };
        if let Ok(drafts) = self.forest.step(&step) {
            for (row, pair) in rows.iter().zip(drafts.offsets.windows(2)) {
                let known = self.rows.iter_mut().find(|(its, _)| its.0 == *row);
                known.unwrap().1 = (pair[1] - pair[0]) as usize;
            }
        }
    }

    /// An image goes round: into an empty forest, and into this one again.
    fn copy(&mut self, bytes: &mut Bytes<'_>) {
        let key = if bytes.below(4) == 0 { LEARNED_KEY } else { bytes.key() };
        let Some(mut image) = self.forest.snapshot(key) else { return };
        let mut other = forest(1 << 30);
        assert_eq!(other.load_snapshot(&image), Ok(key));
        other.check().unwrap();
        if other.has_prompt(key) || key == LEARNED_KEY {
            assert_eq!(other.snapshot(key).as_ref(), Some(&image));
        }
        let mut in_parts = forest(1 << 30);
        for part in split_snapshot(&image, 1 + bytes.below(8)).unwrap() {
            in_parts.load_snapshot(&part).unwrap();
        }
        assert_eq!(in_parts.snapshot(key), other.snapshot(key));
        self.forest.load_snapshot(&image).unwrap();
        let at = bytes.below(image.len());
        image[at] ^= bytes.byte() | 1;
        assert!(self.forest.load_snapshot(&image).is_err());
    }

    fn read(&mut self, bytes: &mut Bytes<'_>) {
        self.forest.drain(bytes.below(30));
        self.forest.drain_used();
        let offsets = bytes.small_ints(5);
        drop(self.forest.mark_used(bytes.key(), bytes.id(), &offsets));
    }

    fn remove(&mut self, bytes: &mut Bytes<'_>) {
        let key = bytes.key();
        match bytes.below(8) {
            0 => drop(self.forest.remove_prompt(key)),
            1 => drop(self.forest.remove_policy_version(u32::from(bytes.byte() & 1))),
            2 | 3 => drop(self.forest.retain_rollouts(key, bytes.below(6))),
            _ => drop(self.forest.remove_sequence(key, bytes.id())),
        }
    }
}

fn origin(bits: u8) -> Origin {
    let lane = if bits & 4 == 0 { Lane::Policy } else { Lane::RunAhead };
    Origin { policy_version: u32::from(bits & 8 == 8), lane, engine_id: u32::from(bits & 64) }
}
