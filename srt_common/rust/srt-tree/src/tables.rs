//! What is learned while drafting: how far to trust each kind of evidence.
//!
//! * Mixing tables: per (scope, context order, count, distinct tokens) how often the evidence of
//!   that level explained the token that came; online EM.
//! * Calibration tables: per (way of drafting, count, order, confidence) the mean acceptance.
//! * They live as long as the forest, and beyond it as an image (`learned`).

use crate::error::{Result, TreeError};

/// Context orders that are mixed.
pub const ORDERS: [usize; NUM_ORDERS] = [2, 3, 4, 6, 8, 12, 16];

/// Number of orders mixed.
pub(crate) const NUM_ORDERS: usize = 7;

const NUM_COUNTS: usize = 9;
const NUM_DISTINCT: usize = 4;
const NUM_MIXING: usize = 2 * NUM_ORDERS * NUM_COUNTS * NUM_DISTINCT;
const NUM_CALIBRATION: usize = 2 * 10 * 5 * 12;

/// Observations that the prior of a mixing weight stands for.
const MIXING_PRIOR: f64 = 4.0;
/// Observations that the prior of an acceptance stands for.
const CALIBRATION_PRIOR: f64 = 3.0;
/// Probability of any token below the lowest level.
const FLOOR: f64 = 1e-4;
/// Keeps sums that should meet a cell's edge from falling short of it by rounding.
const EDGE: f32 = 1e-4;

/// How a row's drafts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No drafts.
    Off = 0,
    /// The most probable token, with all mass on it.
    PointMass = 1,
    /// A sample of the estimate, which goes with it.
    Sampled = 2,
}

impl TryFrom<u8> for Mode {
    type Error = TreeError;

    fn try_from(value: u8) -> Result<Self> {
        match value {
            0 => Ok(Self::Off),
            1 => Ok(Self::PointMass),
            2 => Ok(Self::Sampled),
            _ => Err(TreeError::invalid("mode", value, "0, 1 or 2 (off, point mass, sampled)")),
        }
    }
}

/// What one level of an estimate rests on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) is_local: bool,
    /// Index in [`ORDERS`].
    pub(crate) order: u8,
    /// Distinct tokens seen.
    pub(crate) distinct: u16,
    /// Weight of all observations.
    pub(crate) total: f32,
}

impl Level {
    fn cell(self) -> usize {
        let count = count_class(self.total, NUM_COUNTS - 1);
        let distinct = match self.distinct {
            0 | 1 => 0,
            2 => 1,
            3 | 4 => 2,
            _ => 3,
        };
        let scope = usize::from(self.is_local) * NUM_ORDERS + usize::from(self.order);
        (scope * NUM_COUNTS + count) * NUM_DISTINCT + distinct
    }

    /// What its weight is expected to be, as a fraction.
    fn prior(self) -> (f64, f64) {
        let total = f64::from(self.total);
        (total, total + 0.5 * f64::from(self.distinct) + 0.3)
    }
}

/// The tables of one forest.
#[derive(Debug)]
pub(crate) struct Tables {
    mixing: Box<[Mean]>,
    calibration: Box<[Mean]>,
}

/// A mean in the making; every value added is from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mean {
    pub(crate) sum: f64,
    pub(crate) count: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
    }
}

impl Tables {
    pub(crate) fn new() -> Self {
        Self {
            mixing: vec![Mean::default(); NUM_MIXING].into(),
            calibration: vec![Mean::default(); NUM_CALIBRATION].into(),
        }
    }

    /// All cells, in a fixed order.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &Mean> {
        self.mixing.iter().chain(&self.calibration)
    }

    pub(crate) fn cells_mut(&mut self) -> impl Iterator<Item = &mut Mean> {
        self.mixing.iter_mut().chain(&mut self.calibration)
    }

    /// Weight of a level against all lower ones.
    pub(crate) fn mixing_weight(&self, level: Level) -> f64 {
        let Mean { sum, count } = self.mixing[level.cell()];
        let (numerator, denominator) = level.prior();
        (sum * denominator + MIXING_PRIOR * numerator) / ((count + MIXING_PRIOR) * denominator)
    }

    /// Learns from the token that came: `levels` from the lowest up, each with the share of the
    /// token among its observations.
    pub(crate) fn learn_mixing(&mut self, levels: impl Iterator<Item = (Level, f32)>) {
        let mut below = FLOOR;
        for (level, share) in levels {
            let weight = self.mixing_weight(level);
            let explained = weight * f64::from(share);
            let total = (explained + (1.0 - weight) * below).max(1e-9);
            self.mixing[level.cell()].add((explained / total).min(1.0));
            below = total;
        }
    }

    /// Calibrated chance that a draft from such an estimate is accepted; at most 1, however the
    /// sum behind ``confidence`` was rounded, so that survival never rises along a draft.
    pub(crate) fn acceptance(&self, cell: usize, confidence: f32) -> f64 {
        let Mean { sum, count } = self.calibration[cell];
        let expected =
            (sum + CALIBRATION_PRIOR * f64::from(confidence)) / (count + CALIBRATION_PRIOR);
        expected.min(1.0)
    }

    /// Learns how much of a draft's mass was accepted.
    pub(crate) fn learn_acceptance(&mut self, cell: usize, accepted: f32) {
        self.calibration[cell].add(f64::from(accepted));
    }
}

/// Calibration cell of an estimate whose deepest level is `deepest`.
pub(crate) fn calibration_cell(mode: Mode, deepest: Level, confidence: f32) -> usize {
    let arm = usize::from(mode == Mode::Sampled);
    let order = match ORDERS[usize::from(deepest.order)] {
        0..=2 => 0,
        3..=4 => 1,
        5..=8 => 2,
        9..=14 => 3,
        _ => 4,
    };
    let confidence = ((confidence * 12.0 + EDGE) as usize).min(11);
    ((arm * 10 + count_class(deepest.total, 9)) * 5 + order) * 12 + confidence
}

/// `floor(log2(total)) + 2`, from 0 to `max`.
fn count_class(total: f32, max: usize) -> usize {
    let total = total.max(0.26) * (1.0 + EDGE);
    // The exponent bits of a positive float are floor(log2) + 127; 0.26 has 125.
    ((total.to_bits() >> 23) as usize).saturating_sub(125).min(max)
}
