//! Values as they come from Python, checked; errors as Python knows them.

use numpy::{Element, PyReadonlyArray1};
use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use srt_tree::{Lane, Mode, PromptKey, SequenceId, TreeError, Update};

/// Set in `flags` when the tokens were not sampled by the policy.
pub(crate) const FLAG_OBSERVATION: u8 = 1;

/// The exception of an error, by variant.
pub(crate) fn raise(error: &TreeError) -> PyErr {
    match error {
        TreeError::Invalid { .. } => PyValueError::new_err(error.to_string()),
        TreeError::Broken { .. } => PyRuntimeError::new_err(error.to_string()),
    }
}

pub(crate) fn invalid(field: &str, value: impl std::fmt::Display, allowed: &str) -> PyErr {
    PyValueError::new_err(format!("{field} is {value}, but must be {allowed}"))
}

/// An integer within the bounds of `T`; one outside is a `ValueError` that names the field.
pub(crate) fn integer<'a, 'py, T>(field: &str, value: &'a Bound<'py, PyAny>) -> PyResult<T>
where
    T: FromPyObject<'a, 'py, Error = PyErr>,
{
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            let allowed = format!("from 0 to 2^{} - 1", size_of::<T>() * 8);
            return invalid(field, value, &allowed);
        }
        error
    })
}

/// The elements of an array of exactly this type, which must be contiguous.
pub(crate) fn slice<'a, T: Element>(
    field: &str,
    array: &'a PyReadonlyArray1<'_, T>,
) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| invalid(field, "strided", "a C-contiguous array"))
}

pub(crate) fn prompt_key(bytes: &[u8]) -> PyResult<PromptKey> {
    PromptKey::from_bytes(bytes).map_err(|error| raise(&error))
}

pub(crate) fn lane(value: &Bound<'_, PyAny>) -> PyResult<Lane> {
    Lane::try_from(integer::<u8>("lane", value)?).map_err(|error| raise(&error))
}

pub(crate) fn mode(value: &Bound<'_, PyAny>) -> PyResult<Mode> {
    Mode::try_from(integer::<u8>("mode", value)?).map_err(|error| raise(&error))
}

pub(crate) fn sequence_id(value: &Bound<'_, PyAny>) -> PyResult<SequenceId> {
    Ok(SequenceId(integer("sequence_id", value)?))
}

/// An update as Python hands it over; its bytes stay where they are.
pub(crate) struct PyUpdate {
    prompt_key: PromptKey,
    sequence_id: SequenceId,
    offset: u64,
    policy_version: u32,
    lane: Lane,
    engine_id: u32,
    is_observation: bool,
    tokens: PyBackedBytes,
    soft: PyBackedBytes,
}

/// The fields of an update in the order of `_tree.pyi`.
pub(crate) type UpdateTuple<'py> = (
    PyBackedBytes,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    PyBackedBytes,
    PyBackedBytes,
);

impl PyUpdate {
    pub(crate) fn new(fields: UpdateTuple<'_>) -> PyResult<Self> {
        let (key, id, offset, policy_version, lane_value, engine_id, flags, tokens, soft) = fields;
        let flags: u8 = integer("flags", &flags)?;
        if flags & !FLAG_OBSERVATION != 0 {
            return Err(invalid("flags", flags, "0 or FLAG_OBSERVATION"));
        }
        Ok(Self {
            prompt_key: prompt_key(&key)?,
            sequence_id: sequence_id(&id)?,
            offset: integer("offset", &offset)?,
            policy_version: integer("policy_version", &policy_version)?,
            lane: lane(&lane_value)?,
            engine_id: integer("engine_id", &engine_id)?,
            is_observation: flags & FLAG_OBSERVATION != 0,
            tokens,
            soft,
        })
    }

    /// Tokens, as far as the length says.
    pub(crate) fn num_tokens(&self) -> usize {
        self.tokens.len() / 3
    }

    pub(crate) fn as_update(&self) -> Update<'_> {
        Update {
            prompt_key: self.prompt_key,
            sequence_id: self.sequence_id,
            offset: self.offset,
            origin: srt_tree::Origin {
                policy_version: self.policy_version,
                lane: self.lane,
                engine_id: self.engine_id,
            },
            is_observation: self.is_observation,
            tokens: &self.tokens,
            soft: &self.soft,
        }
    }
}
