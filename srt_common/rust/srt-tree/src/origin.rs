//! Names of things and where they come from: prompts, sequences, tokens, lanes.

use std::fmt;

use crate::error::{Result, TreeError};

/// A token id, below [`TOKEN_LIMIT`].
pub type TokenId = u32;

/// Token ids travel in 3 bytes.
pub const TOKEN_LIMIT: u32 = 1 << 24;

/// Longest sequence, in tokens.
pub const MAX_SEQUENCE_TOKENS: u32 = 1 << 28;

/// Digest of a prompt; names its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PromptKey(pub [u8; 16]);

impl PromptKey {
    /// Reads a key from its bytes.
    ///
    /// # Errors
    /// When there are not 16 of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let key = bytes.try_into().map_err(|_| {
            TreeError::invalid("prompt_key", format!("{} bytes", bytes.len()), "16 bytes")
        })?;
        Ok(Self(key))
    }
}

impl fmt::Display for PromptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Names a sequence within its prompt, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Handle of a request that decodes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub u64);

/// Who a sequence was sampled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A rollout that the trainer learns from.
    Policy = 0,
    /// Generation ahead of need; reaches trees only.
    RunAhead = 1,
}

impl TryFrom<u8> for Lane {
    type Error = TreeError;

    fn try_from(value: u8) -> Result<Self> {
        match value {
            0 => Ok(Self::Policy),
            1 => Ok(Self::RunAhead),
            _ => Err(TreeError::invalid("lane", value, "0 (policy) or 1 (run_ahead)")),
        }
    }
}

/// Where a sequence was sampled. That of the update which started the sequence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Optimizer steps applied to the weights that sampled it.
    pub policy_version: u32,
    /// Who it was sampled for.
    pub lane: Lane,
    /// The engine that sampled it.
    pub engine_id: u32,
}

/// Which kind of text an accepted draft token was copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A sequence of another policy version, or the prompt.
    History = 0,
    /// A sequence of the row's own policy version.
    Online = 1,
    /// A sequence of the run-ahead lane.
    RunAhead = 2,
}
