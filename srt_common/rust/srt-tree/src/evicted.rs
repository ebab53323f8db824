//! Which prompts this forest has evicted, as far as it remembers: tokens that go on with their
//! sequences will not find what comes before.

use std::collections::{HashSet, VecDeque};

use crate::origin::PromptKey;

/// Prompts remembered: about 1 MB. The ones evicted first are forgotten first.
const MAX_PROMPTS: usize = 1 << 14;

/// Evicted prompts.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    known: HashSet<PromptKey>,
    order: VecDeque<PromptKey>,
}

impl Evicted {
    pub(crate) fn note(&mut self, key: PromptKey) {
        if self.known.insert(key) {
            self.order.push_back(key);
        }
        if self.order.len() > MAX_PROMPTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, key: PromptKey) -> bool {
        self.known.contains(&key)
    }
}
