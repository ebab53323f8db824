//! A rollout of two turns is distributed as its policy says, drafts or not: a turn that goes on
//! with the sequence of the one before it draws anew. Controls show that the test sees a stream of
//! draws used again, one that follows from the tokens, and a draft cut by its own tokens.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use srt_tree::{
    Config, Drafts, Draw, Forest, Independent, Lane, Mode, PromptKey, Rng, RowId, RowRequest,
    SequenceId, Step, Weighted,
};

const KEY: PromptKey = PromptKey([1; 16]);
const PROMPT: [i32; 2] = [4, 3];
/// The environment says this between the turns.
const OBSERVATION: i32 = 3;
const TURN_TOKENS: usize = 2;
const NUM_SAMPLED: usize = 3;
const NUM_OUTCOMES: usize = NUM_SAMPLED.pow(2 * TURN_TOKENS as u32);
const NUM_ROLLOUTS: u64 = 30_000;
const MOST_DRAFTED: usize = 3;
/// Chi-square with 80 degrees of freedom: 8 standard deviations above its mean.
const LIMIT: f64 = 80.0 + 8.0 * 12.65;

/// What the policy says after each token; three tokens are ever sampled.
const POLICY: [[f64; NUM_SAMPLED]; 4] =
    [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.6, 0.3], [0.4, 0.35, 0.25]];

/// How a draft is made wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Every turn begins the same stream of draws.
    StreamUsedAgain,
    /// The draws follow from the tokens so far.
    StreamOfTokens,
    /// A draft ends before a position whose token is 1.
    CutByOwnToken,
}

/// Draws from the row's own stream, or from one that a fault prescribes.
struct Stream(Option<Rng>);

impl Draw for Stream {
    fn draw(&mut self, row: RowId, position: usize, q: &[Weighted], rng: &mut Rng) -> usize {
        Independent.draw(row, position, q, self.0.as_mut().unwrap_or(rng))
    }
}

struct World {
    forest: Forest,
    policy_rng: Rng,
    stream: Stream,
    fault: Fault,
}

impl World {
    fn new(fault: Fault) -> Self {
        let config = Config {
            engine_id: 1,
            max_bytes: 1 << 30,
            seed: 5,
            soft_targets: true,
            max_recent_positions: 32,
            num_threads: 1,
            max_early_tokens: 0,
            max_outbox_tokens: 0,
        };
        let (forest, policy_rng) = (Forest::new(config).unwrap(), Rng::new(77, 0));
        Self { forest, policy_rng, stream: Stream(None), fault }
    }

    /// One rollout; returns what was sampled, and whether its second turn went on with the first.
    fn roll_out(&mut self, number: u64) -> (Vec<i32>, bool) {
        let (first, second) = (SequenceId(2 * number), SequenceId(2 * number + 1));
        let mut text = Vec::new();
        let row = self.open(first, None, &text);
        self.decode(row, number, &mut text);
        text.push(OBSERVATION);
        let row = self.open(second, Some(first), &text);
        let goes_on = self.forest.row_sequence(row).unwrap() == first;
        self.decode(row, number, &mut text);
        text.remove(TURN_TOKENS);
        (text, goes_on)
    }

    fn open(&mut self, id: SequenceId, previous: Option<SequenceId>, context: &[i32]) -> RowId {
        let request = RowRequest {
            prompt_key: KEY,
            prompt: &PROMPT,
            context,
            sequence_id: id,
            previous,
            policy_version: 0,
            lane: Lane::Policy,
            mode: Mode::Sampled,
            max_new_tokens: TURN_TOKENS,
            stop_tokens: &[],
        };
        self.forest.open_row(&request).unwrap()
    }

    /// Samples one turn by speculative sampling.
    fn decode(&mut self, row: RowId, number: u64, text: &mut Vec<i32>) {
        let end = text.len() + TURN_TOKENS;
        if self.fault == Fault::StreamUsedAgain {
            self.stream = Stream(Some(Rng::new(9, number)));
        }
        let (mut new_tokens, mut num_verified) = (Vec::new(), 0);
        while text.len() < end {
            let drafts = self.step(row, text, &new_tokens, num_verified);
            num_verified = self.num_verified(&drafts);
            new_tokens = self.verify(&drafts, num_verified, last(text));
            new_tokens.truncate(end - text.len());
            text.extend(&new_tokens);
        }
        self.step(row, text, &new_tokens, num_verified);
        self.forest.close_row(row).unwrap();
    }

    fn step(&mut self, row: RowId, text: &[i32], new: &[i32], num_verified: usize) -> Drafts {
        if self.fault == Fault::StreamOfTokens {
            let digest = text.iter().fold(1, |sum, &token| sum * 7 + token as u64);
            self.stream = Stream(Some(Rng::new(9, digest)));
        }
        let before = &text[..text.len() - new.len()];
        let contexts: Vec<i32> = std::iter::once(last(before)).chain(new.iter().copied()).collect();
        let rows = contexts.iter().take(new.len()).map(|&token| POLICY[token as usize]);
        let soft_probs: Vec<f32> = rows.flatten().map(|it| it as f32).collect();
        let soft_token_ids: Vec<i32> = (0..new.len()).flat_map(|_| [0, 1, 2]).collect();
        let soft_offsets: Vec<i32> = (0..=new.len()).map(|n| (n * NUM_SAMPLED) as i32).collect();
        let step = Step {
            rows: &[row.0],
            new_offsets: &[0, new.len() as i32],
            new_tokens: new,
            num_verified: &[num_verified as i32],
            overlap: &[],
            soft_offsets: &soft_offsets,
            soft_token_ids: &soft_token_ids,
            soft_probs: &soft_probs,
            max_draft_tokens: &[MOST_DRAFTED as i32],
            min_survival: 0.02,
        };
        self.forest.step_with(&step, &mut self.stream).unwrap()
    }

    /// How many drafted positions are verified.
    fn num_verified(&self, drafts: &Drafts) -> usize {
        let cut = drafts.token_ids.iter().position(|&token| token == 1);
        if self.fault == Fault::CutByOwnToken { cut } else { None }
            .unwrap_or(drafts.token_ids.len())
    }

    /// The rejection rule of speculative sampling.
    fn verify(&mut self, drafts: &Drafts, num_verified: usize, mut last: i32) -> Vec<i32> {
        let mut emitted = Vec::new();
        for position in 0..num_verified {
            let (p, q) = (POLICY[last as usize], q_of(drafts, position));
            let drafted = drafts.token_ids[position];
            let ratio = p[drafted as usize] / q[drafted as usize];
            if self.policy_rng.uniform() >= ratio {
                let excess = std::array::from_fn(|token| (p[token] - q[token]).max(0.0));
                emitted.push(self.sample(excess));
                return emitted;
            }
            emitted.push(drafted);
            last = drafted;
        }
        emitted.push(self.sample(POLICY[last as usize]));
        emitted
    }

    fn sample(&mut self, weights: [f64; NUM_SAMPLED]) -> i32 {
        let mut left = self.policy_rng.uniform() * weights.iter().sum::<f64>();
        for (token, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return token as i32;
            }
        }
        weights.iter().rposition(|&weight| weight > 0.0).unwrap() as i32
    }
}

/// The distribution that a position was drawn from.
fn q_of(drafts: &Drafts, position: usize) -> [f64; NUM_SAMPLED] {
    let mut q = [0.0; NUM_SAMPLED];
    for at in position * 8..position * 8 + 8 {
        if drafts.q_probs[at] > 0.0 {
            q[drafts.q_token_ids[at] as usize] += f64::from(drafts.q_probs[at]);
        }
    }
    q
}

fn last(text: &[i32]) -> i32 {
    *text.last().unwrap_or(&PROMPT[1])
}

/// Chance of an outcome under the policy.
fn chance(outcome: usize) -> f64 {
    let (mut left, mut last, mut chance) = (outcome, PROMPT[1], 1.0);
    for n in 0..2 * TURN_TOKENS {
        if n == TURN_TOKENS {
            last = OBSERVATION;
        }
        let token = left % NUM_SAMPLED;
        chance *= POLICY[last as usize][token];
        (left, last) = (left / NUM_SAMPLED, token as i32);
    }
    chance
}

/// Chi-square of what both turns sampled together, and how many second turns went on with a first.
fn chi_square(fault: Fault) -> (f64, u64) {
    let mut world = World::new(fault);
    let (mut counts, mut num_going_on) = ([0_u32; NUM_OUTCOMES], 0);
    for number in 0..NUM_ROLLOUTS {
        let (sampled, goes_on) = world.roll_out(number);
        num_going_on += u64::from(goes_on);
        counts[sampled.iter().rev().fold(0, |sum, &it| sum * NUM_SAMPLED + it as usize)] += 1;
    }
    let of_outcome = |(outcome, &count): (usize, &u32)| {
        let expected = chance(outcome) * NUM_ROLLOUTS as f64;
        (f64::from(count) - expected).powi(2) / expected
    };
    (counts.iter().enumerate().map(of_outcome).sum(), num_going_on)
}

#[test]
fn a_turn_that_goes_on_with_its_sequence_is_sampled_as_the_policy_says() {
    let (found, num_going_on) = chi_square(Fault::None);
    assert_eq!(num_going_on, NUM_ROLLOUTS);
    assert!(found < LIMIT, "chi-square {found}");
}

#[test]
fn a_stream_of_draws_used_again_in_the_next_turn_is_seen() {
    assert!(chi_square(Fault::StreamUsedAgain).0 > 2.0 * LIMIT);
}

#[test]
fn a_stream_of_draws_that_follows_from_the_tokens_is_seen() {
    assert!(chi_square(Fault::StreamOfTokens).0 > 2.0 * LIMIT);
}

#[test]
fn a_draft_cut_by_its_own_token_is_seen() {
    assert!(chi_square(Fault::CutByOwnToken).0 > 2.0 * LIMIT);
}
