"""Every exception survives pickling with its fields, as Celery and vLLM need it."""

from __future__ import annotations

import pickle

import pytest

from srt_common import errors

SAMPLES = [
    errors.ConfigurationError(faults=["a is 1", "b is 2"]),
    errors.MessageError(channel="log", reason="not msgpack"),
    errors.VersionMismatch(channel="log", reason="version 9"),
    errors.MessageTooLarge(channel="log", reason="5 bytes"),
    errors.TreeError(operation="extend", reason="offset is -1"),
    errors.TreeStoreUnavailable(address="unix:///s", reason="late"),
    errors.CoordinationUnavailable(address="unix:///s", reason="late"),
    errors.EngineUnavailable(engine="e0", reason="draining"),
    errors.EngineBusy(engine="e0", reason="full"),
    errors.EngineRefused(engine="e0", reason="max_tokens is 0"),
    errors.LeaseLost(lease="shard 3", epoch=4),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_from_a_pickle_with_message_and_fields(error: errors.SRTError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.fields == error.fields
    for name, value in error.fields.items():
        assert getattr(copy, name) == value
        for item in value if isinstance(value, tuple) else (value,):
            assert str(item) in str(error)


def test_every_class_that_is_raised_has_a_sample_here() -> None:
    leaves = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SRTError)
    }
    bases = {errors.SRTError, errors.TreeStoreError, errors.EngineError}
    assert leaves - bases == {type(error) for error in SAMPLES}


def test_callers_can_catch_by_what_they_do_about_it() -> None:
    assert issubclass(errors.TreeStoreUnavailable, errors.TreeStoreError)
    assert issubclass(errors.VersionMismatch, errors.MessageError)
    assert issubclass(errors.MessageTooLarge, errors.MessageError)
    assert issubclass(errors.EngineBusy, errors.EngineError)
    assert not issubclass(errors.CoordinationUnavailable, errors.TreeStoreError)
