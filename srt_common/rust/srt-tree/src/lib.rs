//! Trees of sampled sequences that draft the next tokens of running rollouts.
//!
//! One [`Forest`] holds a tree per prompt and an index over all of them. Engines open a row per
//! request and call [`Forest::step`] once per engine step: it takes what the rows sampled, learns
//! from it, and returns drafts with the distribution each token was drawn from.
//!
//! | part | modules |
//! |---|---|
//! | what is held | `block`, `arena`, `tree`, `heads`, `index`, `paged`, `soft` |
//! | what follows a context | `candidates`, `estimate`, `tables`, `draft`, `fetch` |
//! | what engines call | `forest`, `step`, `row`, `memory`, `early`, `evicted`, `outbox` |
//! | what replays add | `recorded` |
//! | what lasts | `packed`, `snapshot`, `learned`, `check` |
//!
//! Source: SRT, arXiv 2601.09083; the verification that keeps drafts exact is speculative sampling,
//! arXiv 2211.17192.
#![deny(missing_docs, unsafe_code)]

mod arena;
mod block;
mod candidates;
mod check;
mod draft;
mod early;
mod error;
mod estimate;
mod evicted;
mod fetch;
mod forest;
mod heads;
mod index;
mod learned;
mod memory;
mod origin;
mod outbox;
pub mod packed;
mod paged;
mod propose;
mod recency;
mod recorded;
mod rng;
mod row;
mod snapshot;
mod soft;
mod stats;
mod step;
mod tables;
mod tree;

pub use draft::{Drafts, Draw, Independent};
pub use error::{Result, TreeError};
pub use estimate::Weighted;
pub use forest::{Config, Forest, Update};
pub use heads::CHAIN_ORDERS;
pub use learned::LEARNED_KEY;
pub use origin::{
    Lane, MAX_SEQUENCE_TOKENS, Origin, PromptKey, RowId, SequenceId, Source, TOKEN_LIMIT, TokenId,
};
pub use outbox::OwnedUpdate;
pub use recorded::Recorded;
pub use rng::Rng;
pub use row::RowRequest;
pub use snapshot::{SNAPSHOT_VERSION, split_snapshot};
pub use soft::{MAX_SOFT_TARGETS, MIN_PROBABILITY, SoftRow, SoftTarget};
pub use stats::{ForestStats, PromptStats, RowStats};
pub use step::{MAX_DRAFT_TOKENS, Step};
pub use tables::{Mode, ORDERS};
