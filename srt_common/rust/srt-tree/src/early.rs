//! Updates that arrived before the tokens they continue: a bounded waiting room.
//!
//! * At most `max_tokens` tokens wait; the updates that have waited longest are given up first.
//! * Of updates with the same offset the longest is kept, so repeated messages take no room.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::origin::{Origin, PromptKey, SequenceId};

type Place = (PromptKey, SequenceId);

/// A waiting update, checked and packed.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) offset: usize,
    pub(crate) origin: Origin,
    pub(crate) is_observation: bool,
    pub(crate) num_tokens: usize,
    pub(crate) tokens: Box<[u8]>,
    pub(crate) soft: Box<[u8]>,
}

/// The waiting room.
#[derive(Debug)]
pub(crate) struct Early {
    max_tokens: usize,
    waiting: HashMap<Place, BTreeMap<usize, (u64, Waiting)>>,
    /// Tickets in order of arrival; those no longer in `waiting` are passed over.
    arrivals: VecDeque<(u64, Place, usize)>,
    next_ticket: u64,
    num_updates: usize,
    num_tokens: usize,
    num_dropped: u64,
}

impl Early {
    pub(crate) fn new(max_tokens: usize) -> Self {
        Self {
            max_tokens,
            waiting: HashMap::new(),
            arrivals: VecDeque::new(),
            next_ticket: 0,
            num_updates: 0,
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

    /// Lets an update wait.
    pub(crate) fn insert(&mut self, key: PromptKey, id: SequenceId, update: Waiting) {
        let place = (key, id);
        let offset = update.offset;
        let known = self.waiting.get(&place).and_then(|updates| updates.get(&offset));
        if known.is_some_and(|(_, known)| known.num_tokens >= update.num_tokens) {
            return;
        }
        self.take(place, offset);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.num_updates += 1;
        self.num_tokens += update.num_tokens;
        self.waiting.entry(place).or_default().insert(offset, (ticket, update));
        self.arrivals.push_back((ticket, place, offset));
        while self.num_tokens > self.max_tokens {
            self.drop_oldest();
        }
        self.forget_old_tickets();
    }

    /// Takes the update of a sequence that can be applied when it holds `held` tokens.
    pub(crate) fn take_ready(
        &mut self,
        key: PromptKey,
        id: SequenceId,
        held: usize,
    ) -> Option<Waiting> {
        let (&offset, _) = self.waiting.get(&(key, id))?.first_key_value()?;
        if offset > held { None } else { self.take((key, id), offset) }
    }

    /// Forgets what waits for one sequence.
    pub(crate) fn remove_sequence(&mut self, key: PromptKey, id: SequenceId) {
        for (_, (_, update)) in self.waiting.remove(&(key, id)).unwrap_or_default() {
            self.num_updates -= 1;
            self.num_tokens -= update.num_tokens;
        }
    }

    /// Forgets what waits for sequences of which `is_gone` holds.
    pub(crate) fn remove_where(&mut self, is_gone: impl Fn(PromptKey, &Origin) -> bool) {
        let (num_updates, num_tokens) = (&mut self.num_updates, &mut self.num_tokens);
        self.waiting.retain(|&(key, _), updates| {
            updates.retain(|_, (_, update)| {
                let stays = !is_gone(key, &update.origin);
                if !stays {
                    *num_updates -= 1;
                    *num_tokens -= update.num_tokens;
                }
                stays
            });
            !updates.is_empty()
        });
    }

    fn take(&mut self, place: Place, offset: usize) -> Option<Waiting> {
        let updates = self.waiting.get_mut(&place)?;
        let (_, update) = updates.remove(&offset)?;
        if updates.is_empty() {
            self.waiting.remove(&place);
        }
        self.num_updates -= 1;
        self.num_tokens -= update.num_tokens;
        Some(update)
    }

    fn drop_oldest(&mut self) {
        while let Some((ticket, place, offset)) = self.arrivals.pop_front() {
            let known = self.waiting.get(&place).and_then(|updates| updates.get(&offset));
            if known.is_some_and(|(its, _)| *its == ticket)
                && let Some(update) = self.take(place, offset)
            {
                self.num_dropped += update.num_tokens as u64;
                return;
            }
        }
    }

    /// Keeps `arrivals` in proportion to what waits.
    fn forget_old_tickets(&mut self) {
        if self.arrivals.len() > 2 * self.num_updates + 64 {
            let waiting = &self.waiting;
            self.arrivals.retain(|(ticket, place, offset)| {
                let known = waiting.get(place).and_then(|updates| updates.get(offset));
                known.is_some_and(|(its, _)| its == ticket)
            });
        }
    }

    /// The counters counted anew: (updates, tokens).
    pub(crate) fn recount(&self) -> (usize, usize) {
        let updates = || self.waiting.values().flat_map(BTreeMap::values);
        (updates().count(), updates().map(|(_, update)| update.num_tokens).sum())
    }

    pub(crate) fn counted(&self) -> (usize, usize) {
        (self.num_updates, self.num_tokens)
    }
}
