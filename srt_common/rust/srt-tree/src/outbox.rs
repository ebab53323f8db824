//! What this engine's rows appended and nobody has taken yet: tokens, and positions that proved
//! useful.
//!
//! * Tokens that continue each other are one update, whatever was sampled in between elsewhere.
//! * At most `max_tokens` tokens wait; the oldest updates go first.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use crate::origin::{Origin, PromptKey, SequenceId, TokenId};
use crate::packed::Packer;
use crate::soft::SoftRow;
use crate::tree::IdHasher;

/// Tokens of one sequence, as they travel between engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedUpdate {
    /// Names the tree.
    pub prompt_key: PromptKey,
    /// Names the sequence.
    pub sequence_id: SequenceId,
    /// Where in the sequence the tokens begin.
    pub offset: usize,
    /// Where the sequence was sampled.
    pub origin: Origin,
    /// Whether the environment wrote the tokens.
    pub is_observation: bool,
    /// The tokens, packed, with their soft targets.
    pub packed: Packer,
}

/// Waiting updates.
#[derive(Debug)]
pub(crate) struct Outbox {
    max_tokens: usize,
    updates: VecDeque<OwnedUpdate>,
    /// Number of the first update in `updates`, counted since the start.
    first: u64,
    /// The update that a sequence's next tokens continue, by number.
    open: HashMap<(PromptKey, SequenceId), u64, IdHasher>,
    num_tokens: usize,
    num_dropped: u64,
}

impl Outbox {
    pub(crate) fn new(max_tokens: usize) -> Self {
        Self {
            max_tokens,
            updates: VecDeque::new(),
            first: 0,
            open: HashMap::default(),
            num_tokens: 0,
            num_dropped: 0,
        }
    }

    pub(crate) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    pub(crate) fn num_dropped(&self) -> u64 {
        self.num_dropped
    }

    /// Adds tokens of a sequence from `offset` on.
    pub(crate) fn append<'a>(
        &mut self,
        (prompt_key, sequence_id): (PromptKey, SequenceId),
        offset: usize,
        origin: Origin,
        is_observation: bool,
        items: impl ExactSizeIterator<Item = (TokenId, &'a SoftRow)>,
    ) {
        if items.len() == 0 || self.max_tokens == 0 {
            return; // nobody is to be told
        }
        self.num_tokens += items.len();
        let place = (prompt_key, sequence_id);
        let number = self.open.get(&place).copied();
        let known = number.and_then(|it| self.updates.get_mut((it - self.first) as usize));
        if let Some(update) = known
            && update.is_observation == is_observation
            && update.offset + update.packed.len() == offset
        {
            items.for_each(|(token, row)| update.packed.push(token, row.as_slice()));
        } else {
            let mut update = OwnedUpdate {
                prompt_key,
                sequence_id,
                offset,
                origin,
                is_observation,
                packed: Packer::default(),
            };
            items.for_each(|(token, row)| update.packed.push(token, row.as_slice()));
            self.open.insert(place, self.first + self.updates.len() as u64);
            self.updates.push_back(update);
        }
        while self.num_tokens > self.max_tokens {
            let dropped = self.take_first().map_or(0, |update| update.packed.len());
            self.num_dropped += dropped as u64;
        }
    }

    /// Takes the oldest updates, until they hold `max_tokens` tokens.
    pub(crate) fn drain(&mut self, max_tokens: usize) -> Vec<OwnedUpdate> {
        let mut taken = Vec::new();
        let mut num_tokens = 0;
        while num_tokens < max_tokens
            && let Some(update) = self.take_first()
        {
            num_tokens += update.packed.len();
            taken.push(update);
        }
        taken
    }

    fn take_first(&mut self) -> Option<OwnedUpdate> {
        let update = self.updates.pop_front()?;
        let place = (update.prompt_key, update.sequence_id);
        if self.open.get(&place) == Some(&self.first) {
            self.open.remove(&place);
        }
        self.first += 1;
        self.num_tokens -= update.packed.len();
        Some(update)
    }

    /// `num_tokens` counted anew.
    pub(crate) fn recount(&self) -> usize {
        self.updates.iter().map(|update| update.packed.len()).sum()
    }
}

/// Positions that supplied an accepted draft token here for the first time.
#[derive(Debug)]
pub(crate) struct UsedLog {
    max_offsets: usize,
    num_offsets: usize,
    offsets: BTreeMap<(PromptKey, SequenceId), Vec<u32>>,
}

impl UsedLog {
    pub(crate) fn new(max_offsets: usize) -> Self {
        Self { max_offsets, num_offsets: 0, offsets: BTreeMap::new() }
    }

    /// Notes a position; a full log takes no more until it is drained.
    pub(crate) fn push(&mut self, key: PromptKey, id: SequenceId, offset: usize) {
        if self.num_offsets < self.max_offsets {
            self.num_offsets += 1;
            self.offsets.entry((key, id)).or_default().push(offset as u32);
        }
    }

    /// Takes everything, offsets ascending.
    pub(crate) fn drain(&mut self) -> Vec<(PromptKey, SequenceId, Vec<u32>)> {
        self.num_offsets = 0;
        let taken = std::mem::take(&mut self.offsets).into_iter();
        taken
            .map(|((key, id), mut offsets)| {
                offsets.sort_unstable();
                (key, id, offsets)
            })
            .collect()
    }
}
