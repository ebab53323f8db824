"""Base of every process's settings, and the only place (with telemetry.setup) that reads the
environment.

* One frozen class per service, prefix ``SRT_<SERVICE>_``; bounds live in the types.
* A misspelt variable stops the process: pydantic-settings alone accepts it silently.
* Built once in ``__main__`` and passed on as an argument.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from srt_common.errors import ConfigurationError


class ServiceSettings(BaseSettings):
    """Settings of one process; subclass with ``env_prefix``."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_file=None, validate_default=True
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check ``SRT_<SERVICE>_*``.

        Raises:
            ConfigurationError: every fault at once, each naming the variable, the value and what is
            allowed.
        """
        prefix = str(cls.model_config.get("env_prefix", ""))
        faults = _unknown_names(os.environ, prefix, known=set(cls.model_fields))
        try:
            settings = cls()
        except ValidationError as error:
            raise ConfigurationError(faults=[*faults, *_faults(error, prefix)]) from error
        except SettingsError as error:  # a list or object that is not JSON; names the field
            raise ConfigurationError(faults=[*faults, f"{prefix}*: {error}"]) from error
        if faults:
            raise ConfigurationError(faults=faults)
        return settings

    def resolved(self) -> dict[str, Any]:
        """All values, secrets masked: logged once at start."""
        return self.model_dump(mode="json")


def _unknown_names(environment: Mapping[str, str], prefix: str, *, known: set[str]) -> list[str]:
    """A sentence for each variable with our prefix that names no field."""
    faults = []
    for variable in sorted(environment):
        name = variable.removeprefix(prefix).lower()
        if not variable.startswith(prefix) or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {prefix}{near[0].upper()}?" if near else ""
        faults.append(f"{variable} is not a setting of this process{hint}")
    return faults


def _faults(error: ValidationError, prefix: str) -> list[str]:
    """A sentence for each field that pydantic refused."""
    faults = []
    for fault in error.errors(include_url=False):
        variable = prefix + "_".join(str(part) for part in fault["loc"]).upper()
        if fault["type"] == "missing":
            faults.append(f"{variable} is not set; it is required")
        else:
            faults.append(f"{variable} is {fault['input']!r}: {fault['msg']}")
    return faults


def set_environment(values: Mapping[str, str]) -> None:
    """Give this process and its children environment variables that are not set yet."""
    for name, value in values.items():
        os.environ.setdefault(name, value)
