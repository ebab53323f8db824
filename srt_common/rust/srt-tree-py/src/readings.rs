//! What the forest answers, as Python objects.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

/// What a step proposes for its rows.
#[pyclass(frozen, module = "srt_common.tree._tree")]
pub(crate) struct Drafts {
    offsets: Py<PyArray1<i32>>,
    token_ids: Py<PyArray1<i32>>,
    q_token_ids: Py<PyArray2<i32>>,
    q_probs: Py<PyArray2<f32>>,
    survival: Py<PyArray1<f32>>,
    match_length: Py<PyArray1<i32>>,
}

impl Drafts {
    pub(crate) fn new(py: Python<'_>, drafts: srt_tree::Drafts) -> PyResult<Self> {
        let shape = [drafts.token_ids.len(), srt_tree::MAX_SOFT_TARGETS];
        let q_token_ids = PyArray1::from_vec(py, drafts.q_token_ids).reshape(shape)?;
        let q_probs = PyArray1::from_vec(py, drafts.q_probs).reshape(shape)?;
        Ok(Self {
            offsets: PyArray1::from_vec(py, drafts.offsets).unbind(),
            token_ids: PyArray1::from_vec(py, drafts.token_ids).unbind(),
            q_token_ids: q_token_ids.unbind(),
            q_probs: q_probs.unbind(),
            survival: PyArray1::from_vec(py, drafts.survival).unbind(),
            match_length: PyArray1::from_vec(py, drafts.match_length).unbind(),
        })
    }
}

#[pymethods]
impl Drafts {
    #[getter]
    fn offsets(&self, py: Python<'_>) -> Py<PyArray1<i32>> {
        self.offsets.clone_ref(py)
    }
    #[getter]
    fn token_ids(&self, py: Python<'_>) -> Py<PyArray1<i32>> {
        self.token_ids.clone_ref(py)
    }
    #[getter]
    fn q_token_ids(&self, py: Python<'_>) -> Py<PyArray2<i32>> {
        self.q_token_ids.clone_ref(py)
    }
    #[getter]
    fn q_probs(&self, py: Python<'_>) -> Py<PyArray2<f32>> {
        self.q_probs.clone_ref(py)
    }
    #[getter]
    fn survival(&self, py: Python<'_>) -> Py<PyArray1<f32>> {
        self.survival.clone_ref(py)
    }
    #[getter]
    fn match_length(&self, py: Python<'_>) -> Py<PyArray1<i32>> {
        self.match_length.clone_ref(py)
    }
}

/// Declares a frozen class around a reading, with one getter a field.
macro_rules! reading {
    ($name:ident { $($field:ident: $kind:ty,)* }) => {
        #[pyclass(frozen, module = "srt_common.tree._tree")]
        pub(crate) struct $name(pub(crate) srt_tree::$name);

        #[pymethods]
        impl $name {
            $(#[getter]
            fn $field(&self) -> $kind {
                self.0.$field.into()
            })*
        }
    };
}

impl From<srt_tree::RowStats> for RowStats {
    fn from(stats: srt_tree::RowStats) -> Self {
        Self(stats)
    }
}

reading!(RowStats {
    num_steps: u64,
    num_lookups: u64,
    num_hits: u64,
    num_draft_tokens: u64,
    num_accepted_tokens: u64,
    accepted_by_source: (u64, u64, u64),
    num_remote_draft_tokens: u64,
    sum_match_length: u64,
});

reading!(ForestStats {
    num_prompts: usize,
    num_sequences: usize,
    num_tokens: usize,
    num_run_ahead_tokens: usize,
    num_run_ahead_tokens_used: usize,
    memory_bytes: usize,
    max_bytes: usize,
    num_early_tokens: usize,
    num_dropped_tokens: u64,
    num_refused_tokens: u64,
    num_evicted_prompts: u64,
    num_outbox_tokens: usize,
    num_dropped_outbox_tokens: u64,
    rows: RowStats,
});

reading!(PromptStats {
    num_sequences: usize,
    num_tokens: usize,
    num_run_ahead_tokens: usize,
    num_run_ahead_tokens_used: usize,
    num_run_ahead_sequences: usize,
    min_policy_version: u32,
    max_policy_version: u32,
    memory_bytes: usize,
});
