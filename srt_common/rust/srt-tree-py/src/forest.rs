//! The class `Forest`: every method converts, releases the GIL, takes the lock, and works.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};
use srt_tree::{Config, Forest as Trees, OwnedUpdate, Recorded, RowId, RowRequest, Step};

use crate::convert::{self, FLAG_OBSERVATION, PyUpdate, UpdateTuple, integer, raise, slice};
use crate::readings::{Drafts, ForestStats, PromptStats, RowStats};

type UpdateFields<'py> =
    (Bound<'py, PyBytes>, u64, usize, u32, u8, u32, u8, Bound<'py, PyBytes>, Bound<'py, PyBytes>);
type RecordedArrays<'py> = (
    PyReadonlyArray1<'py, i32>,
    PyReadonlyArray1<'py, i32>,
    PyReadonlyArray1<'py, i32>,
    PyReadonlyArray1<'py, i32>,
    PyReadonlyArray1<'py, f32>,
);
type UsedFields<'py> = (Bound<'py, PyBytes>, u64, Bound<'py, PyArray1<i32>>);

/// The trees of one engine or of one tree cache replica.
#[pyclass(frozen, module = "srt_common.tree._tree")]
pub(crate) struct Forest {
    trees: Mutex<Trees>,
    rejected: Mutex<(u64, String)>,
}

impl Forest {
    /// Works on the trees without holding the GIL.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Trees) -> srt_tree::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| work(&mut self.trees.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| raise(&error))
    }

    fn reject(&self, reason: &PyErr) {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        *rejected = (rejected.0 + 1, reason.to_string());
    }
}

#[pymethods]
impl Forest {
    #[new]
    #[pyo3(signature = (*, engine_id, max_bytes, seed, soft_targets = true,
        max_recent_positions = 32, num_threads = 1, max_early_tokens = 1 << 20,
        max_outbox_tokens = 1 << 22))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python signature")]
    fn new(
        engine_id: &Bound<'_, PyAny>,
        max_bytes: &Bound<'_, PyAny>,
        seed: &Bound<'_, PyAny>,
        soft_targets: bool,
        max_recent_positions: usize,
        num_threads: usize,
        max_early_tokens: usize,
        max_outbox_tokens: usize,
    ) -> PyResult<Self> {
        let config = Config {
            engine_id: integer("engine_id", engine_id)?,
            max_bytes: integer("max_bytes", max_bytes)?,
            seed: integer("seed", seed)?,
            soft_targets,
            max_recent_positions,
            num_threads,
            max_early_tokens,
            max_outbox_tokens,
        };
        let trees = Trees::new(config).map_err(|error| raise(&error))?;
        Ok(Self { trees: Mutex::new(trees), rejected: Mutex::default() })
    }

    // -- sequences -------------------------------------------------------------------------------

    fn set_prompt(
        &self,
        py: Python<'_>,
        prompt_key: &[u8],
        token_ids: PyReadonlyArray1<'_, i32>,
    ) -> PyResult<()> {
        let key = convert::prompt_key(prompt_key)?;
        let tokens = slice("token_ids", &token_ids)?;
        self.work(py, |trees| trees.set_prompt(key, tokens))
    }

    #[pyo3(signature = (prompt_key, sequence_id, offset, *, policy_version, lane, engine_id, flags,
        tokens, soft))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python signature")]
    fn extend(
        &self,
        py: Python<'_>,
        prompt_key: PyBackedBytes,
        sequence_id: Bound<'_, PyAny>,
        offset: Bound<'_, PyAny>,
        policy_version: Bound<'_, PyAny>,
        lane: Bound<'_, PyAny>,
        engine_id: Bound<'_, PyAny>,
        flags: Bound<'_, PyAny>,
        tokens: PyBackedBytes,
        soft: PyBackedBytes,
    ) -> PyResult<usize> {
        let update = PyUpdate::new((
            prompt_key,
            sequence_id,
            offset,
            policy_version,
            lane,
            engine_id,
            flags,
            tokens,
            soft,
        ))?;
        self.work(py, |trees| trees.extend(&update.as_update()))
    }

    fn apply(
        &self,
        py: Python<'_>,
        updates: &Bound<'_, PyAny>,
        max_tokens: usize,
    ) -> PyResult<usize> {
        let mut taken = Vec::new();
        let (mut num_taken, mut num_tokens) = (0, 0);
        for fields in updates.try_iter()? {
            if num_taken > 0 && num_tokens >= max_tokens {
                break;
            }
            num_taken += 1;
            match PyUpdate::new(fields?.extract::<UpdateTuple<'_>>()?) {
                Ok(update) => {
                    num_tokens += update.num_tokens();
                    taken.push(update);
                }
                Err(error) if error.is_instance_of::<PyValueError>(py) => self.reject(&error),
                Err(error) => return Err(error),
            }
        }
        let refused = self.work(py, |trees| {
            Ok(taken
                .iter()
                .filter_map(|it| trees.extend(&it.as_update()).err())
                .collect::<Vec<_>>())
        })?;
        for error in &refused {
            self.reject(&raise(error));
        }
        Ok(num_taken)
    }

    fn rejected(&self) -> (u64, String) {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mark_used(
        &self,
        py: Python<'_>,
        prompt_key: &[u8],
        sequence_id: &Bound<'_, PyAny>,
        offsets: PyReadonlyArray1<'_, i32>,
    ) -> PyResult<usize> {
        let key = convert::prompt_key(prompt_key)?;
        let id = convert::sequence_id(sequence_id)?;
        let offsets = slice("offsets", &offsets)?;
        self.work(py, |trees| trees.mark_used(key, id, offsets))
    }

    fn remove_sequence(
        &self,
        py: Python<'_>,
        prompt_key: &[u8],
        sequence_id: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let key = convert::prompt_key(prompt_key)?;
        let id = convert::sequence_id(sequence_id)?;
        self.work(py, |trees| Ok(trees.remove_sequence(key, id)))
    }

    fn retain_rollouts(
        &self,
        py: Python<'_>,
        prompt_key: &[u8],
        max_rollouts: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let key = convert::prompt_key(prompt_key)?;
        let max_rollouts = integer("max_rollouts", max_rollouts)?;
        self.work(py, |trees| Ok(trees.retain_rollouts(key, max_rollouts)))
    }

    fn remove_policy_version(
        &self,
        py: Python<'_>,
        policy_version: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let version = integer("policy_version", policy_version)?;
        self.work(py, |trees| Ok(trees.remove_policy_version(version)))
    }

    fn remove_prompt(&self, py: Python<'_>, prompt_key: &[u8]) -> PyResult<bool> {
        let key = convert::prompt_key(prompt_key)?;
        self.work(py, |trees| Ok(trees.remove_prompt(key)))
    }

    // -- rows ------------------------------------------------------------------------------------

    #[pyo3(signature = (prompt_key, prompt_token_ids, context_token_ids, *, sequence_id,
        policy_version, lane, mode, max_new_tokens, stop_token_ids, previous_sequence_id=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python signature")]
    fn open_row(
        &self,
        py: Python<'_>,
        prompt_key: &[u8],
        prompt_token_ids: PyReadonlyArray1<'_, i32>,
        context_token_ids: PyReadonlyArray1<'_, i32>,
        sequence_id: &Bound<'_, PyAny>,
        policy_version: &Bound<'_, PyAny>,
        lane: &Bound<'_, PyAny>,
        mode: &Bound<'_, PyAny>,
        max_new_tokens: &Bound<'_, PyAny>,
        stop_token_ids: PyReadonlyArray1<'_, i32>,
        previous_sequence_id: Option<Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let request = RowRequest {
            prompt_key: convert::prompt_key(prompt_key)?,
            prompt: slice("prompt_token_ids", &prompt_token_ids)?,
            context: slice("context_token_ids", &context_token_ids)?,
            sequence_id: convert::sequence_id(sequence_id)?,
            previous: previous_sequence_id.as_ref().map(convert::sequence_id).transpose()?,
            policy_version: integer("policy_version", policy_version)?,
            lane: convert::lane(lane)?,
            mode: convert::mode(mode)?,
            max_new_tokens: integer("max_new_tokens", max_new_tokens)?,
            stop_tokens: slice("stop_token_ids", &stop_token_ids)?,
        };
        self.work(py, |trees| trees.open_row(&request)).map(|row| row.0)
    }

    fn row_sequence_id(&self, py: Python<'_>, row: &Bound<'_, PyAny>) -> PyResult<u64> {
        let row = RowId(integer("row", row)?);
        self.work(py, |trees| trees.row_sequence(row)).map(|id| id.0)
    }

    fn set_row_mode(
        &self,
        py: Python<'_>,
        row: &Bound<'_, PyAny>,
        mode: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (row, mode) = (RowId(integer("row", row)?), convert::mode(mode)?);
        self.work(py, |trees| trees.set_row_mode(row, mode))
    }

    fn close_row(&self, py: Python<'_>, row: &Bound<'_, PyAny>) -> PyResult<RowStats> {
        let row = RowId(integer("row", row)?);
        self.work(py, |trees| trees.close_row(row)).map(RowStats)
    }

    #[pyo3(signature = (rows, new_offsets, new_tokens, num_verified, overlap, soft_offsets,
        soft_token_ids, soft_probs, max_draft_tokens, min_survival, recorded = None))]
    #[expect(clippy::too_many_arguments, reason = "arguments of the Python signature")]
    fn step(
        &self,
        py: Python<'_>,
        rows: PyReadonlyArray1<'_, u64>,
        new_offsets: PyReadonlyArray1<'_, i32>,
        new_tokens: PyReadonlyArray1<'_, i32>,
        num_verified: PyReadonlyArray1<'_, i32>,
        overlap: PyReadonlyArray1<'_, f32>,
        soft_offsets: PyReadonlyArray1<'_, i32>,
        soft_token_ids: PyReadonlyArray1<'_, i32>,
        soft_probs: PyReadonlyArray1<'_, f32>,
        max_draft_tokens: PyReadonlyArray1<'_, i32>,
        min_survival: f64,
        recorded: Option<RecordedArrays<'_>>,
    ) -> PyResult<Drafts> {
        let step = Step {
            rows: slice("rows", &rows)?,
            new_offsets: slice("new_offsets", &new_offsets)?,
            new_tokens: slice("new_tokens", &new_tokens)?,
            num_verified: slice("num_verified", &num_verified)?,
            overlap: slice("overlap", &overlap)?,
            soft_offsets: slice("soft_offsets", &soft_offsets)?,
            soft_token_ids: slice("soft_token_ids", &soft_token_ids)?,
            soft_probs: slice("soft_probs", &soft_probs)?,
            max_draft_tokens: slice("max_draft_tokens", &max_draft_tokens)?,
            min_survival,
        };
        let drafts = match &recorded {
            None => self.work(py, |trees| trees.step(&step)),
            Some((offsets, tokens, target_offsets, target_ids, target_probs)) => {
                let targets = (
                    slice("target_offsets", target_offsets)?,
                    slice("target_token_ids", target_ids)?,
                    slice("target_probs", target_probs)?,
                );
                let (offsets, tokens) = (slice("offsets", offsets)?, slice("tokens", tokens)?);
                let text = Recorded::new(step.rows, offsets, tokens, targets);
                let mut text = text.map_err(|error| raise(&error))?;
                self.work(py, |trees| trees.step_with(&step, &mut text))
            }
        }?;
        Drafts::new(py, drafts)
    }

    fn drain<'py>(&self, py: Python<'py>, max_tokens: usize) -> PyResult<Vec<UpdateFields<'py>>> {
        let updates = self.work(py, |trees| Ok(trees.drain(max_tokens)))?;
        Ok(updates.iter().map(|update| update_fields(py, update)).collect())
    }

    fn drain_used<'py>(&self, py: Python<'py>) -> PyResult<Vec<UsedFields<'py>>> {
        let used = self.work(py, |trees| Ok(trees.drain_used()))?;
        let fields = used.into_iter().map(|(key, id, offsets)| {
            let offsets = PyArray1::from_iter(py, offsets.into_iter().map(|it| it as i32));
            (PyBytes::new(py, &key.0), id.0, offsets)
        });
        Ok(fields.collect())
    }

    // -- reading ---------------------------------------------------------------------------------

    fn stats(&self, py: Python<'_>) -> PyResult<ForestStats> {
        self.work(py, |trees| Ok(trees.stats())).map(ForestStats)
    }

    fn memory_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.work(py, |trees| Ok(trees.memory_bytes()))
    }

    fn has_prompt(&self, py: Python<'_>, prompt_key: &[u8]) -> PyResult<bool> {
        let key = convert::prompt_key(prompt_key)?;
        self.work(py, |trees| Ok(trees.has_prompt(key)))
    }

    fn has_evicted(&self, py: Python<'_>, prompt_key: &[u8]) -> PyResult<bool> {
        let key = convert::prompt_key(prompt_key)?;
        self.work(py, |trees| Ok(trees.has_evicted(key)))
    }

    fn prompt_keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let keys = self.work(py, |trees| Ok(trees.prompt_keys().collect::<Vec<_>>()))?;
        PyList::new(py, keys.iter().map(|key| PyBytes::new(py, &key.0)))
    }

    fn prompt_stats(&self, py: Python<'_>, prompt_key: &[u8]) -> PyResult<Option<PromptStats>> {
        let key = convert::prompt_key(prompt_key)?;
        Ok(self.work(py, |trees| Ok(trees.prompt_stats(key)))?.map(PromptStats))
    }

    fn sequence_tokens<'py>(
        &self,
        py: Python<'py>,
        prompt_key: &[u8],
        sequence_id: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyArray1<i32>>>> {
        let key = convert::prompt_key(prompt_key)?;
        let id = convert::sequence_id(sequence_id)?;
        let tokens = self.work(py, |trees| Ok(trees.sequence_tokens(key, id)))?;
        let array = |it: Vec<u32>| PyArray1::from_iter(py, it.into_iter().map(|id| id as i32));
        Ok(tokens.map(array))
    }

    fn snapshot<'py>(
        &self,
        py: Python<'py>,
        prompt_key: &[u8],
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let key = convert::prompt_key(prompt_key)?;
        let image = self.work(py, |trees| Ok(trees.snapshot(key)))?;
        Ok(image.map(|image| PyBytes::new(py, &image)))
    }

    fn load_snapshot<'py>(
        &self,
        py: Python<'py>,
        image: PyBackedBytes,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key = self.work(py, |trees| trees.load_snapshot(&image))?;
        Ok(PyBytes::new(py, &key.0))
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.work(py, |trees| trees.check())
    }
}

#[pyfunction]
pub(crate) fn split_snapshot(
    py: Python<'_>,
    image: PyBackedBytes,
    max_tokens: usize,
) -> PyResult<Vec<Bound<'_, PyBytes>>> {
    let parts = py.detach(|| srt_tree::split_snapshot(&image, max_tokens));
    let parts = parts.map_err(|error| raise(&error))?;
    Ok(parts.iter().map(|part| PyBytes::new(py, part)).collect())
}

fn update_fields<'py>(py: Python<'py>, update: &OwnedUpdate) -> UpdateFields<'py> {
    let origin = update.origin;
    (
        PyBytes::new(py, &update.prompt_key.0),
        update.sequence_id.0,
        update.offset,
        origin.policy_version,
        origin.lane as u8,
        origin.engine_id,
        if update.is_observation { FLAG_OBSERVATION } else { 0 },
        PyBytes::new(py, &update.packed.tokens),
        PyBytes::new(py, &update.packed.soft),
    )
}
