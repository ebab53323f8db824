//! Random operations on a forest and on a model that is obviously right. Covered: what sequences
//! hold under duplicated, early and removed updates, the canonical snapshot, the memory bound, and
//! every invariant after every operation.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use srt_tree::packed::Packer;
use srt_tree::{
    Config, Forest, Lane, Mode, Origin, PromptKey, Rng, RowId, RowRequest, SequenceId, SoftRow,
    SoftTarget, Step, Update,
};

const VOCABULARY: usize = 6;
const PROMPT: [i32; 5] = [0, 1, 2, 0, 1];

/// What a sequence will be once all its updates have come.
struct Truth {
    origin: Origin,
    tokens: Vec<(u32, SoftRow)>,
    /// Tokens before it are observations.
    num_observed: usize,
}

/// What a sequence is: how much is held, and which updates wait.
#[derive(Default, Clone)]
struct Held {
    len: usize,
    waiting: BTreeSet<(usize, usize)>,
}

impl Held {
    fn extend(&mut self, start: usize, end: usize) {
        self.waiting.insert((start, end));
        while let Some(&(start, end)) = self.waiting.iter().find(|it| it.0 <= self.len) {
            self.waiting.remove(&(start, end));
            self.len = self.len.max(end);
        }
    }
}

type Place = (u8, u64);

struct World {
    rng: Rng,
    forest: Forest,
    truths: BTreeMap<Place, Truth>,
    held: BTreeMap<Place, Held>,
    rows: Vec<(RowId, usize)>,
    next_id: u64,
}

impl World {
    fn new(seed: u64, max_bytes: usize) -> Self {
        let mut rng = Rng::new(seed, 1);
        let mut truths = BTreeMap::new();
        for key in 0..3 {
            for id in 0..6 {
                truths.insert((key, id), truth(&mut rng));
            }
        }
        let forest = forest(max_bytes, seed);
        Self { rng, forest, truths, held: BTreeMap::new(), rows: Vec::new(), next_id: 1000 }
    }

    fn below(&mut self, end: usize) -> usize {
        (self.rng.uniform() * end as f64) as usize
    }

    fn place(&mut self) -> Place {
        (self.below(3) as u8, self.below(6) as u64)
    }

    /// Hands over a random part of a sequence; observations and sampled tokens do not mix.
    fn extend(&mut self) {
        let place = self.place();
        let len = self.truths[&place].tokens.len();
        let edge = self.truths[&place].num_observed;
        let start = self.below(len);
        let end = if start < edge { edge } else { len };
        let end = start + 1 + self.below(end - start);
        let (before, known) = (self.held_len(place), self.held.entry(place).or_default());
        known.extend(start, end);
        let num_new = extend(&mut self.forest, place, &self.truths[&place], start, end);
        assert_eq!(num_new, self.held_len(place) - before);
    }

    fn held_len(&self, place: Place) -> usize {
        self.held.get(&place).map_or(0, |held| held.len)
    }

    fn open_row(&mut self) {
        let key = self.below(3) as u8;
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let context: Vec<i32> = (0..self.below(4)).map(|it| it as i32).collect();
        let mode = if self.below(2) == 0 { Mode::PointMass } else { Mode::Sampled };
        let row = self.forest.open_row(&RowRequest {
            prompt_key: PromptKey([key; 16]),
            prompt: &PROMPT,
            context: &context,
            sequence_id: id,
            previous: None,
            policy_version: 2,
            lane: Lane::Policy,
            mode,
            max_new_tokens: 60,
            stop_tokens: &[5],
        });
        self.rows.push((row.unwrap(), 0));
    }

    /// Steps all rows, each accepting a random part of its draft.
    fn step(&mut self) {
        let (mut offsets, mut tokens) = (vec![0], Vec::new());
        let rows: Vec<u64> = self.rows.iter().map(|(row, _)| row.0).collect();
        let verified: Vec<i32> = self.rows.iter().map(|(_, drafted)| *drafted as i32).collect();
        for _ in &rows {
            let num_new = self.below(5);
            tokens.extend((0..num_new).map(|_| self.below(VOCABULARY) as i32));
            offsets.push(tokens.len() as i32);
        }
        let drafts = self.forest.step(&Step {
            rows: &rows,
            new_offsets: &offsets,
            new_tokens: &tokens,
            num_verified: &verified,
            overlap: &[],
            soft_offsets: &[],
            soft_token_ids: &[],
            soft_probs: &[],
            max_draft_tokens: &vec![6; rows.len()],
            min_survival: 0.05,
        });
        let offsets = drafts.unwrap().offsets;
        for ((_, drafted), pair) in self.rows.iter_mut().zip(offsets.windows(2)) {
            *drafted = (pair[1] - pair[0]) as usize;
        }
    }

    fn remove(&mut self) {
        let place = self.place();
        let key = PromptKey([place.0; 16]);
        match self.below(3) {
            0 => {
                let was_held = self.held_len(place) > 0;
                self.held.remove(&place);
                assert_eq!(self.forest.remove_sequence(key, SequenceId(place.1)), was_held);
            }
            1 => {
                let version = self.truths[&place].origin.policy_version;
                let truths = &self.truths;
                self.held.retain(|it, _| truths[it].origin.policy_version != version);
                self.forest.remove_policy_version(version);
            }
            _ => {
                self.held.retain(|it, _| it.0 != place.0);
                self.forest.remove_prompt(key);
            }
        }
    }

    fn act(&mut self) {
        match self.below(20) {
            0 => self.open_row(),
            1..=3 => self.step(),
            4 => {
                if let Some((row, _)) = self.rows.pop() {
                    self.forest.close_row(row).unwrap();
                }
            }
            5 => self.remove(),
            6 => {
                let key = PromptKey([self.below(3) as u8; 16]);
                self.forest.set_prompt(key, &PROMPT).unwrap();
            }
            7 => drop(self.forest.drain(10)),
            _ => self.extend(),
        }
    }

    fn assert_holds_what_the_model_holds(&self) {
        for (&(key, id), truth) in &self.truths {
            let tokens = self.forest.sequence_tokens(PromptKey([key; 16]), SequenceId(id));
            let expected = truth.tokens.iter().take(self.held_len((key, id))).map(|it| it.0);
            assert_eq!(tokens.unwrap_or_default(), expected.collect::<Vec<_>>());
        }
        let early = self.held.values().flat_map(|held| &held.waiting);
        let longest: BTreeMap<_, _> = early.map(|it| (it.0, it.1 - it.0)).collect();
        assert_eq!(longest.is_empty(), self.forest.stats().num_early_tokens == 0);
    }
}

fn forest(max_bytes: usize, seed: u64) -> Forest {
    Forest::new(Config {
        engine_id: 1,
        max_bytes,
        seed,
        soft_targets: true,
        max_recent_positions: 8,
        num_threads: 1,
        max_early_tokens: 1 << 20,
        max_outbox_tokens: 50,
    })
    .unwrap()
}

fn truth(rng: &mut Rng) -> Truth {
    let mut below = |end: usize| (rng.uniform() * end as f64) as usize;
    let origin = Origin {
        policy_version: below(2) as u32,
        lane: if below(2) == 0 { Lane::Policy } else { Lane::RunAhead },
        engine_id: below(2) as u32,
    };
    let len = 1 + below(80);
    let num_observed = below(len.min(6));
    let tokens = (0..len).map(|_| {
        let token = below(VOCABULARY) as u32;
        let row = (0..below(3) as u32).map(|rank| SoftTarget::new(rank, 40 * rank as u8));
        (token, SoftRow::from_targets(row))
    });
    Truth { origin, tokens: tokens.collect(), num_observed }
}

fn extend(forest: &mut Forest, place: Place, truth: &Truth, start: usize, end: usize) -> usize {
    let mut packed = Packer::default();
    for (token, row) in &truth.tokens[start..end] {
        packed.push(*token, row.as_slice());
    }
    let update = Update {
        prompt_key: PromptKey([place.0; 16]),
        sequence_id: SequenceId(place.1),
        offset: start as u64,
        origin: truth.origin,
        is_observation: start < truth.num_observed,
        tokens: &packed.tokens,
        soft: &packed.soft,
    };
    forest.extend(&update).unwrap()
}

#[test]
fn random_operations_leave_what_the_model_holds_and_no_invariant_broken() {
    for seed in 0..60 {
        let mut world = World::new(seed, 1 << 30);
        for _ in 0..300 {
            world.act();
            world.forest.check().unwrap();
            world.assert_holds_what_the_model_holds();
        }
    }
}

#[test]
fn memory_stays_within_its_bound_whatever_comes() {
    let mut num_evicted = 0;
    let mut num_refused = 0;
    for seed in 0..60 {
        let max_bytes = 2_000 + 1_500 * (seed as usize % 20);
        let mut world = World::new(seed, max_bytes);
        for _ in 0..200 {
            let place = world.place();
            match world.below(12) {
                0 if world.rows.len() < 4 => world.open_row(),
                1 => world.step(),
                2 => {
                    let key = PromptKey([place.0; 16]);
                    world.forest.remove_sequence(key, SequenceId(place.1));
                }
                _ => {
                    let len = world.truths[&place].tokens.len();
                    let edge = world.truths[&place].num_observed;
                    let start = if world.below(2) == 0 { 0 } else { edge };
                    let end = if start < edge { edge } else { len };
                    extend(&mut world.forest, place, &world.truths[&place], start, end);
                }
            }
            world.forest.check().unwrap();
            assert!(world.forest.memory_bytes() <= max_bytes);
        }
        num_evicted += world.forest.stats().num_evicted_prompts;
        num_refused += world.forest.stats().num_refused_tokens;
    }
    assert!(num_evicted > 100 && num_refused > 100, "{num_evicted} {num_refused}");
}

#[test]
fn equal_appends_in_any_order_give_equal_snapshots() {
    for seed in 0..40 {
        let mut world = World::new(seed, 1 << 30);
        for _ in 0..150 {
            world.extend();
        }
        let held = world.held.clone();
        let mut other = World::new(seed, 1 << 30);
        for (&place, held) in held.iter().rev() {
            let truth = &other.truths[&place];
            let edge = truth.num_observed.min(held.len);
            if held.len > edge {
                extend(&mut other.forest, place, truth, edge, held.len);
            }
            if edge > 0 {
                extend(&mut other.forest, place, truth, 0, edge);
            }
        }
        for key in 0..3 {
            let key = PromptKey([key; 16]);
            let image = world.forest.snapshot(key);
            assert_eq!(image, other.forest.snapshot(key));
            let Some(image) = image else { continue };
            let mut loaded = forest(1 << 30, seed);
            for _ in 0..2 {
                assert_eq!(loaded.load_snapshot(&image).unwrap(), key);
                assert_eq!(loaded.snapshot(key).as_ref(), Some(&image));
            }
            loaded.check().unwrap();
        }
    }
}

#[test]
fn damaged_images_are_refused_and_change_nothing() {
    let mut world = World::new(3, 1 << 30);
    for _ in 0..100 {
        world.extend();
    }
    let image = world.forest.snapshot(PromptKey([0; 16])).unwrap();
    let mut loaded = forest(1 << 30, 0);
    for at in 0..image.len() {
        let mut damaged = image.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(loaded.load_snapshot(&damaged).is_err());
        assert!(loaded.load_snapshot(&image[..at]).is_err());
    }
    assert_eq!(loaded.stats().num_prompts, 0);
}

#[test]
fn drafts_do_not_depend_on_the_order_of_rows() {
    let run = |reversed: bool| {
        let mut world = World::new(5, 1 << 30);
        for _ in 0..200 {
            world.extend();
        }
        (0..4).for_each(|_| world.open_row());
        let mut drafted: BTreeMap<u64, Vec<Vec<i32>>> = BTreeMap::new();
        for round in 0..10 {
            let mut rows: Vec<u64> = world.rows.iter().map(|it| it.0.0).collect();
            if reversed {
                rows.reverse();
            }
            let tokens: Vec<i32> = rows.iter().map(|row| ((row + round) % 5) as i32).collect();
            let counts: Vec<i32> = (0..=rows.len() as i32).collect();
            let last = |row: &u64| drafted.get(row).and_then(|it| it.last()).map_or(0, Vec::len);
            let verified: Vec<i32> = rows.iter().map(|row| last(row) as i32).collect();
            let drafts = world.forest.step(&Step {
                rows: &rows,
                new_offsets: &counts,
                new_tokens: &tokens,
                num_verified: &verified,
                overlap: &[],
                soft_offsets: &[],
                soft_token_ids: &[],
                soft_probs: &[],
                max_draft_tokens: &[8; 4],
                min_survival: 0.0,
            });
            let drafts = drafts.unwrap();
            for (row, pair) in rows.iter().zip(drafts.offsets.windows(2)) {
                let draft = drafts.token_ids[pair[0] as usize..pair[1] as usize].to_vec();
                drafted.entry(*row).or_default().push(draft);
            }
        }
        drafted
    };
    let drafted = run(false);
    assert!(drafted.values().flatten().map(Vec::len).sum::<usize>() > 50);
    assert_eq!(drafted, run(true));
}

#[test]
fn a_sweep_of_the_index_in_slices_leaves_every_chain_whole_at_each_moment() {
    let mut rng = Rng::new(7, 7);
    let mut forest = forest(1 << 30, 0);
    let mut held = Vec::new();
    let mut largest = 0;
    for n in 0..700_u64 {
        let truth = Truth {
            origin: Origin { policy_version: 0, lane: Lane::Policy, engine_id: 1 },
            tokens: (0..60).map(|_| ((rng.uniform() * 9.0) as u32, SoftRow::EMPTY)).collect(),
            num_observed: 0,
        };
        let place = ((n % 7) as u8, n);
        assert_eq!(extend(&mut forest, place, &truth, 0, 60), 60);
        held.push(place);
        while held.len() > 60 {
            let at = (rng.uniform() * held.len() as f64) as usize;
            let (key, id) = held.swap_remove(at);
            assert!(forest.remove_sequence(PromptKey([key; 16]), SequenceId(id)));
        }
        if n % 5 == 0 {
            forest.check().unwrap();
        }
        largest = largest.max(forest.memory_bytes());
    }
    // Numbers are given out again: memory follows what is held, not what has passed through.
    assert!(largest < 4 * forest.memory_bytes());
    for key in 0..7 {
        assert!(forest.remove_prompt(PromptKey([key; 16])));
        forest.check().unwrap();
    }
}
