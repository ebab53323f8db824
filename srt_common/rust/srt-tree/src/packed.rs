//! Packed tokens and soft targets: the forms in which they travel and lie in snapshots.
//!
//! * Tokens: 3 bytes an id, little-endian.
//! * Soft targets: per token a count byte `n` (0..=8), then `n` times (3-byte id, code byte), most
//!   probable first. No bytes at all: no token has one.
//!
//! Parsing checks everything before anything is allocated or changed.

use crate::error::{Result, TreeError};
use crate::origin::TokenId;
use crate::soft::{MAX_SOFT_TARGETS, SoftRow, SoftTarget};

const TOKEN_BYTES: usize = 3;
const TARGET_BYTES: usize = 4;

/// Packs tokens with their soft targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packer {
    /// Packed tokens.
    pub tokens: Vec<u8>,
    /// Packed soft targets; empty while no token has one.
    pub soft: Vec<u8>,
}

impl Packer {
    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() / TOKEN_BYTES
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Appends a token with its soft targets.
    pub fn push(&mut self, token: TokenId, row: &[SoftTarget]) {
        if self.soft.is_empty() && !row.is_empty() {
            self.soft.resize(self.len(), 0);
        }
        let is_soft = !self.soft.is_empty() || !row.is_empty();
        push_token(&mut self.tokens, token);
        if is_soft {
            self.soft.push(row.len() as u8);
        }
        for target in row {
            push_token(&mut self.soft, target.token());
            self.soft.push(target.code());
        }
    }
}

fn push_token(bytes: &mut Vec<u8>, token: TokenId) {
    bytes.extend_from_slice(&token.to_le_bytes()[..TOKEN_BYTES]);
}

/// A checked run of tokens with their soft targets.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    tokens: &'a [u8],
    soft: &'a [u8],
    num_targets: usize,
}

impl<'a> Packed<'a> {
    /// Checks both forms.
    ///
    /// # Errors
    /// When the lengths do not agree, or a soft row is cut, too long or out of order.
    pub fn parse(tokens: &'a [u8], soft: &'a [u8]) -> Result<Self> {
        if !tokens.len().is_multiple_of(TOKEN_BYTES) {
            let value = format!("{} bytes", tokens.len());
            return Err(TreeError::invalid("tokens", value, "a multiple of 3 bytes"));
        }
        let num_targets = check_soft(soft, tokens.len() / TOKEN_BYTES)?;
        Ok(Self { tokens, soft, num_targets })
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() / TOKEN_BYTES
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of soft targets of all tokens.
    #[must_use]
    pub fn num_targets(&self) -> usize {
        self.num_targets
    }

    /// The tokens with their soft targets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, SoftRow)> + use<'a> {
        let mut soft = self.soft;
        self.tokens.chunks_exact(TOKEN_BYTES).map(move |bytes| {
            let row = take_soft_row(&mut soft);
            (read_token(bytes), row)
        })
    }
}

fn read_token(bytes: &[u8]) -> TokenId {
    u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16
}

/// Cuts the next row off checked soft bytes; empty when none are left.
fn take_soft_row(soft: &mut &[u8]) -> SoftRow {
    let Some((&count, rest)) = soft.split_first() else { return SoftRow::EMPTY };
    let (row, rest) = rest.split_at(usize::from(count) * TARGET_BYTES);
    *soft = rest;
    SoftRow::from_targets(
        row.chunks_exact(TARGET_BYTES).map(|pair| SoftTarget::new(read_token(pair), pair[3])),
    )
}

/// Checks soft bytes of `num_tokens` tokens; returns how many pairs they hold.
fn check_soft(soft: &[u8], num_tokens: usize) -> Result<usize> {
    if soft.is_empty() {
        return Ok(0);
    }
    let refuse = |value: String, allowed: &str| Err(TreeError::invalid("soft", value, allowed));
    let (mut rest, mut num_targets) = (soft, 0);
    for token in 0..num_tokens {
        let Some((&count, after)) = rest.split_first() else {
            return refuse(format!("{token} rows"), "empty or one row a token");
        };
        let count = usize::from(count);
        if count > MAX_SOFT_TARGETS {
            return refuse(format!("a row of {count} pairs"), "rows of at most 8 pairs");
        }
        if after.len() < count * TARGET_BYTES {
            return refuse(format!("cut inside row {token}"), "whole rows");
        }
        let (row, after) = after.split_at(count * TARGET_BYTES);
        if row.chunks_exact(TARGET_BYTES).is_sorted_by_key(|pair| pair[3]) {
            (rest, num_targets) = (after, num_targets + count);
        } else {
            return refuse(format!("row {token} out of order"), "most probable pair first");
        }
    }
    if rest.is_empty() {
        Ok(num_targets)
    } else {
        refuse(format!("{} bytes beyond the last row", rest.len()), "one row a token")
    }
}
