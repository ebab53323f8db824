"""The Python rules refuse what nobody should get past us, and blame the field.

Whether an API server agrees is shown in tests/cluster.
"""

from __future__ import annotations

import pytest

from support.bad_resources import ESCAPES, MISTAKES, SOUND, Bad, verdict_of_python


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_sound_is_taken(kind: str) -> None:
    assert verdict_of_python(SOUND[kind]) == ""


@pytest.mark.parametrize("bad", [*ESCAPES, *MISTAKES], ids=str)
def test_what_is_bad_is_refused_with_its_field(bad: Bad) -> None:
    assert bad.field in verdict_of_python(bad.document)
