//! Soft targets: the policy's own probabilities of its top tokens at a position.
//!
//! One `u32` a pair: the id in the upper 24 bits, a logarithmic probability code in the lower 8.
//! Code `c` stands for `exp(-c * 5.6 / 255)`: the largest code is just below [`MIN_PROBABILITY`].

use std::sync::LazyLock;

use crate::origin::TokenId;

/// Pairs kept per position, and in each sparse q.
pub const MAX_SOFT_TARGETS: usize = 8;

/// Smaller probabilities are dropped where soft targets are made.
pub const MIN_PROBABILITY: f32 = 0.004;

const CODE_RANGE: f32 = 5.6;

static PROBABILITIES: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| (-(code as f32) * CODE_RANGE / 255.0).exp()));

/// A token and its probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoftTarget(u32);

impl SoftTarget {
    /// A pair from its parts; `token` is below 2^24.
    #[must_use]
    pub const fn new(token: TokenId, code: u8) -> Self {
        Self(token << 8 | code as u32)
    }

    /// The nearest code for a probability.
    #[must_use]
    pub fn from_probability(token: TokenId, probability: f32) -> Self {
        let code = (-probability.ln() * 255.0 / CODE_RANGE).round().clamp(0.0, 255.0);
        Self::new(token, code as u8)
    }

    /// The token.
    #[must_use]
    pub const fn token(self) -> TokenId {
        self.0 >> 8
    }

    /// The code; a larger one is less probable.
    #[must_use]
    pub const fn code(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The probability that the code stands for.
    #[must_use]
    pub fn probability(self) -> f32 {
        PROBABILITIES[self.code() as usize]
    }

    /// What each code stands for.
    pub(crate) fn probabilities() -> &'static [f32; 256] {
        &PROBABILITIES
    }
}

/// The soft targets of one position, most probable first; empty where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoftRow {
    len: u8,
    targets: [SoftTarget; MAX_SOFT_TARGETS],
}

impl SoftRow {
    /// No soft target at this position.
    pub const EMPTY: Self = Self { len: 0, targets: [SoftTarget(0); MAX_SOFT_TARGETS] };

    /// A row from pairs; those beyond the eighth are left out.
    #[must_use]
    pub fn from_targets(targets: impl IntoIterator<Item = SoftTarget>) -> Self {
        let mut row = Self::EMPTY;
        for (slot, target) in row.targets.iter_mut().zip(targets) {
            *slot = target;
            row.len += 1;
        }
        row
    }

    /// The pairs.
    #[must_use]
    pub fn as_slice(&self) -> &[SoftTarget] {
        &self.targets[..usize::from(self.len)]
    }
}
