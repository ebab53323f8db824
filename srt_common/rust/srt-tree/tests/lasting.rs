//! What outlasts an eviction, a restart and a limit: sequences that go on without their beginning,
//! the learned tables, the most useful rollouts, and trees at the bound of memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use srt_tree::packed::Packer;
use srt_tree::{
    Config, Drafts, Forest, LEARNED_KEY, Lane, Mode, Origin, PromptKey, Rng, RowId, RowRequest,
    SequenceId, Step, Update, split_snapshot,
};

const KEY: PromptKey = PromptKey([7; 16]);
const PROMPT: [i32; 2] = [1, 2];

fn forest(max_bytes: usize) -> Forest {
    Forest::new(Config {
        engine_id: 1,
        max_bytes,
        seed: 3,
        soft_targets: true,
        max_recent_positions: 8,
        num_threads: 1,
        max_early_tokens: 1 << 20,
        max_outbox_tokens: 0,
    })
    .unwrap()
}

fn extend(forest: &mut Forest, key: PromptKey, id: u64, offset: usize, tokens: &[u32]) -> usize {
    extend_of_version(forest, (key, id, 0), offset, tokens)
}

fn extend_of_version(
    forest: &mut Forest,
    (prompt_key, id, policy_version): (PromptKey, u64, u32),
    offset: usize,
    tokens: &[u32],
) -> usize {
    let mut packed = Packer::default();
    for &token in tokens {
        packed.push(token, &[]);
    }
    let update = Update {
        prompt_key,
        sequence_id: SequenceId(id),
        offset: offset as u64,
        origin: Origin { policy_version, lane: Lane::Policy, engine_id: 2 },
        is_observation: false,
        tokens: &packed.tokens,
        soft: &packed.soft,
    };
    forest.extend(&update).unwrap()
}

fn tokens(forest: &Forest, id: u64) -> Vec<u32> {
    forest.sequence_tokens(KEY, SequenceId(id)).unwrap_or_default()
}

fn open(forest: &mut Forest, id: u64, context: &[i32], mode: Mode) -> RowId {
    let request = RowRequest {
        prompt_key: KEY,
        prompt: &PROMPT,
        context,
        sequence_id: SequenceId(id),
        previous: None,
        policy_version: 1,
        lane: Lane::Policy,
        mode,
        max_new_tokens: 0,
        stop_tokens: &[],
    };
    forest.open_row(&request).unwrap()
}

fn step(forest: &mut Forest, row: RowId, new_tokens: &[i32], num_verified: usize) -> Drafts {
    let step = Step {
        rows: &[row.0],
        new_offsets: &[0, new_tokens.len() as i32],
        new_tokens,
        num_verified: &[num_verified as i32],
        overlap: &[],
        soft_offsets: &[],
        soft_token_ids: &[],
        soft_probs: &[],
        max_draft_tokens: &[8],
        min_survival: 0.3,
    };
    forest.step(&step).unwrap()
}

/// A forest that held tokens 0..40 of sequence 5 of the prompt and then evicted it.
fn after_eviction() -> Forest {
    let mut forest = forest(40_000);
    let text: Vec<u32> = (100..140).collect();
    extend(&mut forest, KEY, 5, 0, &text);
    for other in 0..200 {
        extend(&mut forest, PromptKey([other; 16]), 1, 0, &text);
        if !forest.has_prompt(KEY) {
            return forest;
        }
    }
    panic!("nothing was evicted");
}

#[test]
fn a_sequence_goes_on_without_the_beginning_that_was_evicted() {
    let mut forest = after_eviction();
    let rest: Vec<u32> = (140..180).collect();
    assert_eq!(extend(&mut forest, KEY, 5, 40, &rest[..20]), 20);
    assert_eq!(extend(&mut forest, KEY, 5, 60, &rest[20..]), 20);
    assert_eq!(extend(&mut forest, KEY, 5, 50, &rest[10..30]), 0, "held already");
    forest.check().unwrap();
    assert_eq!(tokens(&forest, 5), rest);
    let row = open(&mut forest, 6, &[150, 151, 152, 153], Mode::PointMass);
    let drafts = step(&mut forest, row, &[], 0);
    assert_eq!(drafts.token_ids.first(), Some(&154));
    assert_eq!(forest.mark_used(KEY, SequenceId(5), &[39, 40, 79, 80]).unwrap(), 2);
}

#[test]
fn a_beginning_that_comes_after_all_is_joined_with_what_went_on() {
    let mut forest = after_eviction();
    let text: Vec<u32> = (100..180).collect();
    extend(&mut forest, KEY, 5, 40, &text[40..]);
    assert_eq!(extend(&mut forest, KEY, 5, 0, &text[..10]), 10);
    assert_eq!(tokens(&forest, 5), text[..10]);
    extend(&mut forest, KEY, 5, 10, &text[10..40]);
    forest.check().unwrap();
    assert_eq!(tokens(&forest, 5), text);
    assert_eq!(forest.stats().num_early_tokens, 0);
}

#[test]
fn newer_tokens_replace_a_beginning_that_they_do_not_reach() {
    let mut forest = after_eviction();
    extend(&mut forest, KEY, 5, 0, &[1, 2, 3]);
    assert_eq!(extend(&mut forest, KEY, 5, 40, &[8, 9]), 2);
    assert_eq!(tokens(&forest, 5), [8, 9]);
    forest.check().unwrap();
}

#[test]
fn a_sequence_without_its_beginning_survives_a_snapshot() {
    let mut forest = after_eviction();
    let rest: Vec<u32> = (140..180).collect();
    extend(&mut forest, KEY, 5, 40, &rest);
    let image = forest.snapshot(KEY).unwrap();
    let mut loaded = self::forest(1 << 30);
    for _ in 0..2 {
        loaded.load_snapshot(&image).unwrap();
        loaded.check().unwrap();
        assert_eq!(loaded.snapshot(KEY), Some(image.clone()));
    }
    let text: Vec<u32> = (100..140).collect();
    extend(&mut loaded, KEY, 5, 0, &text);
    assert_eq!(tokens(&loaded, 5).len(), 80);
}

#[test]
fn parts_of_a_snapshot_loaded_in_turn_do_what_the_whole_one_does() {
    let mut forest = after_eviction();
    extend(&mut forest, KEY, 5, 40, &(140..180).collect::<Vec<u32>>());
    extend(&mut forest, KEY, 6, 0, &(100..150).collect::<Vec<u32>>());
    let image = forest.snapshot(KEY).unwrap();
    let parts = split_snapshot(&image, 16).unwrap();
    assert_eq!(parts.len(), 3 + 4);
    let mut loaded = self::forest(1 << 30);
    for part in &parts {
        let before = loaded.stats().num_tokens;
        assert_eq!(loaded.load_snapshot(part), Ok(KEY));
        assert!((1..=16).contains(&(loaded.stats().num_tokens - before)));
    }
    loaded.check().unwrap();
    assert_eq!(loaded.snapshot(KEY), Some(image.clone()));
    assert!(split_snapshot(&image[..image.len() - 1], 16).is_err());
}

#[test]
fn where_nothing_was_evicted_an_update_ahead_of_its_offset_waits() {
    let mut forest = forest(1 << 30);
    assert_eq!(extend(&mut forest, KEY, 5, 2, &[3, 4]), 0);
    assert_eq!(extend(&mut forest, KEY, 5, 0, &[1, 2]), 4);
}

/// Lets a row sample what follows itself in the text, wrong at times, and returns its last draft.
fn learn(forest: &mut Forest, id: u64) -> Drafts {
    let (row, mut rng) = (open(forest, id, &[], Mode::PointMass), Rng::new(id, 0));
    let mut drafts = step(forest, row, &[10], 0);
    for _ in 0..60 {
        let num_drafted = drafts.token_ids.len();
        let num_accepted = (rng.uniform() * (num_drafted + 1) as f64) as usize;
        let mut new_tokens = drafts.token_ids[..num_accepted].to_vec();
        new_tokens.push((rng.uniform() * 4.0) as i32 + 10);
        drafts = step(forest, row, &new_tokens, num_drafted);
    }
    forest.close_row(row).unwrap();
    drafts
}

#[test]
fn a_restarted_engine_is_warm_in_its_tables_too() {
    let mut first = forest(1 << 30);
    (0..20).for_each(|id| drop(learn(&mut first, id)));
    let (tree, learned) = (first.snapshot(KEY).unwrap(), first.snapshot(LEARNED_KEY).unwrap());
    let restart = |with_tables: bool| {
        let mut forest = forest(1 << 30);
        forest.load_snapshot(&tree).unwrap();
        if with_tables {
            assert_eq!(forest.load_snapshot(&learned).unwrap(), LEARNED_KEY);
            assert_eq!(forest.snapshot(LEARNED_KEY).as_ref(), Some(&learned));
        }
        assert_eq!(forest.snapshot(KEY).as_ref(), Some(&tree), "images do not depend on tables");
        learn(&mut forest, 100).survival
    };
    let expected = learn(&mut first, 100).survival;
    assert_eq!(restart(true), expected);
    assert_ne!(restart(false), expected);
}

#[test]
fn tables_merge_alike_in_any_order_and_damaged_ones_change_nothing() {
    let mut images = Vec::new();
    for start in [0, 50] {
        let mut forest = forest(1 << 30);
        (start..start + 5).for_each(|id| drop(learn(&mut forest, id)));
        images.push(forest.snapshot(LEARNED_KEY).unwrap());
    }
    let load = |order: &[usize]| {
        let mut forest = forest(1 << 30);
        for &it in order {
            forest.load_snapshot(&images[it]).unwrap();
        }
        forest.snapshot(LEARNED_KEY)
    };
    assert_eq!(load(&[0, 1]), load(&[1, 0, 1, 0]));
    assert_ne!(load(&[0, 1]), load(&[0]));
    let mut forest = forest(1 << 30);
    for at in 4..images[0].len() {
        let mut damaged = images[0].clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(forest.load_snapshot(&damaged).is_err());
    }
    assert!(forest.load_snapshot(&images[0][..99]).is_err());
    assert_eq!(forest.snapshot(LEARNED_KEY), None);
}

#[test]
fn the_least_useful_rollouts_go_first_and_the_newest_and_the_running_stay() {
    let mut forest = forest(1 << 30);
    for (id, version) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)] {
        extend_of_version(&mut forest, (KEY, id, version), 0, &[1, 2, 3, id as u32]);
    }
    forest.mark_used(KEY, SequenceId(1), &[0, 2]).unwrap();
    forest.mark_used(KEY, SequenceId(3), &[1]).unwrap();
    let row = open(&mut forest, 9, &[4], Mode::Off);
    let held = |forest: &Forest| -> Vec<u64> {
        (1..10).filter(|&id| !tokens(forest, id).is_empty()).collect()
    };
    assert_eq!(forest.retain_rollouts(KEY, 7), 0);
    assert_eq!(forest.retain_rollouts(KEY, 5), 2);
    assert_eq!(held(&forest), [1, 3, 5, 6, 9], "2 and 4 were of no use");
    assert_eq!(forest.retain_rollouts(KEY, 3), 2);
    assert_eq!(held(&forest), [5, 6, 9]);
    assert_eq!(forest.retain_rollouts(KEY, 0), 2);
    assert_eq!(held(&forest), [9], "it decodes");
    forest.close_row(row).unwrap();
    forest.check().unwrap();
    assert_eq!(forest.retain_rollouts(PromptKey([1; 16]), 0), 0);
}

#[test]
fn at_the_bound_memory_goes_to_tokens_and_not_to_what_left() {
    let (mut forest, mut rng) = (forest(4 << 20), Rng::new(1, 1));
    let mut num_held = Vec::new();
    for n in 0..4000_u64 {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(n / 8).to_le_bytes());
        let text: Vec<u32> = (0..100).map(|_| (rng.uniform() * 30.0) as u32).collect();
        extend(&mut forest, PromptKey(key), n, 0, &text);
        num_held.push(forest.stats().num_tokens);
    }
    assert!(forest.stats().num_evicted_prompts > 200);
    let least = *num_held[2000..].iter().min().unwrap();
    let most = *num_held.iter().max().unwrap();
    assert!(least * 10 > most * 7, "{least} tokens held at times, {most} at others");
    forest.check().unwrap();
}
