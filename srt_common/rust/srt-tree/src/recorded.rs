//! Replays: drafts coupled with recorded text, so that what drafting gains can be counted without a
//! model.
//!
//! The recorded x at a position was sampled from the policy's p. With u uniform, x is also the
//! draft, accepted, if u p(x) < q(x); else the draft follows max(q - p, 0) and is refused. So the
//! draft's law is exactly q, it is accepted with probability sum(min(p, q)), and the recorded text
//! stays an exact sample: the rejection rule of speculative sampling (arXiv 2211.17192) read
//! backwards. Behind the first refused position, and past the end of the text, drafts follow q.

use std::collections::HashMap;

use crate::draft::{Draw, Independent};
use crate::error::{Result, TreeError};
use crate::estimate::Weighted;
use crate::origin::RowId;
use crate::rng::Rng;

/// What is known to follow the text of the rows of one step, with the policy's distributions.
#[derive(Debug)]
pub struct Recorded<'a> {
    /// Row `rows[i]` goes on with `tokens[offsets[i]..offsets[i + 1]]`.
    offsets: &'a [i32],
    tokens: &'a [i32],
    /// The distribution of token n is entries `target_offsets[n]..target_offsets[n + 1]`.
    target_offsets: &'a [i32],
    target_ids: &'a [i32],
    target_probs: &'a [f32],
    row_numbers: HashMap<u64, usize>,
    is_live: Vec<bool>,
}

impl<'a> Recorded<'a> {
    /// Checks that the arrays fit together: `offsets` [B+1] over `tokens` [T], `targets` = offsets
    /// [T+1] over token ids [M] and probabilities [M].
    ///
    /// # Errors
    /// When they do not.
    pub fn new(
        rows: &[u64],
        offsets: &'a [i32],
        tokens: &'a [i32],
        targets: (&'a [i32], &'a [i32], &'a [f32]),
    ) -> Result<Self> {
        let (target_offsets, target_ids, target_probs) = targets;
        let is_whole = spans(offsets, rows.len(), tokens.len())
            && spans(target_offsets, tokens.len(), target_ids.len())
            && target_ids.len() == target_probs.len();
        if !is_whole {
            let allowed = "offsets [B+1] over tokens [T], offsets [T+1] over ids and probs [M]";
            return Err(TreeError::invalid("recorded", "of unequal lengths", allowed));
        }
        let row_numbers = rows.iter().enumerate().map(|(number, &row)| (row, number)).collect();
        let is_live = vec![true; rows.len()];
        Ok(Self { offsets, tokens, target_offsets, target_ids, target_probs, row_numbers, is_live })
    }

    fn probability(&self, n: usize, token: u32) -> f32 {
        let range = self.target_offsets[n] as usize..self.target_offsets[n + 1] as usize;
        let found = self.target_ids[range.clone()].iter().position(|&id| id == token as i32);
        found.map_or(0.0, |at| self.target_probs[range.start + at])
    }
}

impl Draw for Recorded<'_> {
    fn draw(&mut self, row: RowId, position: usize, q: &[Weighted], rng: &mut Rng) -> usize {
        let Some(&number) = self.row_numbers.get(&row.0) else { return 0 };
        let n = self.offsets[number] as usize + position;
        self.is_live[number] &= n < self.offsets[number + 1] as usize;
        if !self.is_live[number] {
            return Independent.draw(row, position, q, rng);
        }
        let x = self.tokens[n] as u32;
        let found = q.iter().position(|it| it.token == x);
        let is_accepted = |at: &usize| {
            rng.uniform() * f64::from(self.probability(n, x)) < f64::from(q[*at].probability)
        };
        if let Some(at) = found.filter(is_accepted) {
            return at;
        }
        self.is_live[number] = false;
        let excess = |it: &Weighted| (it.probability - self.probability(n, it.token)).max(0.0);
        pick(q, excess, rng)
    }
}

/// An index of `q`, drawn in proportion to `weight`.
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

fn spans(offsets: &[i32], num_items: usize, end: usize) -> bool {
    offsets.len() == num_items + 1
        && offsets.first() == Some(&0)
        && offsets.last() == Some(&(end as i32))
        && offsets.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: [Weighted; 3] = [
        Weighted { token: 5, probability: 0.5 },
        Weighted { token: 6, probability: 0.3 },
        Weighted { token: 7, probability: 0.2 },
    ];
    const P: [f32; 3] = [0.2, 0.5, 0.3];

    /// Draws one position many times, the recorded token following P: how often each token was
    /// drafted, and how often the draft was the recorded token.
    fn draw_often(num_draws: u32) -> Result<([u32; 3], u32)> {
        let (mut counts, mut num_equal, mut rng) = ([0; 3], 0, Rng::new(7, 1));
        for _ in 0..num_draws {
            let x = Independent.draw(RowId(1), 0, &Q.map(with_p), &mut rng);
            let (tokens, ids) = ([x as i32 + 5], [5, 6, 7]);
            let targets = (&[0, 3][..], &ids[..], &P[..]);
            let mut recorded = Recorded::new(&[1], &[0, 1], &tokens, targets)?;
            let drafted = recorded.draw(RowId(1), 0, &Q, &mut rng);
            counts[drafted] += 1;
            num_equal += u32::from(drafted == x);
            assert_eq!(recorded.is_live[0], drafted == x, "accepted means equal");
        }
        Ok((counts, num_equal))
    }

    fn with_p(it: Weighted) -> Weighted {
        Weighted { probability: P[it.token as usize - 5], ..it }
    }

    #[test]
    fn a_coupled_draft_follows_q_and_is_accepted_with_the_overlap_of_p_and_q() -> Result<()> {
        let (counts, num_equal) = draw_often(200_000)?;
        for (count, it) in counts.iter().zip(&Q) {
            assert!((f64::from(*count) / 200_000.0 - f64::from(it.probability)).abs() < 0.005);
        }
        assert!((f64::from(num_equal) / 200_000.0 - 0.7).abs() < 0.005); // .2 + .3 + .2
        Ok(())
    }

    #[test]
    fn behind_the_recorded_text_a_draft_follows_q() -> Result<()> {
        let mut recorded = Recorded::new(&[1], &[0, 0], &[], (&[0], &[], &[]))?;
        let mut rng = Rng::new(7, 1);
        let num_first = (0..10_000).filter(|_| recorded.draw(RowId(1), 0, &Q, &mut rng) == 0);
        assert!(num_first.count().abs_diff(5_000) < 250);
        Ok(())
    }

    #[test]
    fn arrays_that_do_not_fit_are_refused() {
        assert!(Recorded::new(&[1], &[0], &[], (&[0], &[], &[])).is_err());
        assert!(Recorded::new(&[1], &[0, 1], &[4], (&[0, 2], &[4], &[1.0])).is_err());
    }
}
