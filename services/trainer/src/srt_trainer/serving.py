"""How weights reach the engines, ``SRT_TRAINER_*``: what depends on where the trainer runs and not
on the job.

Importable without torch, like `srt_trainer.settings`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from srt_common.errors import ConfigurationError
from srt_common.settings import ServiceSettings
from srt_trainer.settings import TrainerSettings


class ServingSettings(ServiceSettings):
    """Whether, and where, policy versions are served over HTTP."""

    model_config = SettingsConfigDict(env_prefix="SRT_TRAINER_")

    weights_url: Annotated[str, Field(pattern=r"^https?://[^/?#@]+/?$")] | None = None
    """Base URL under which engines reach this process, for instance
    ``http://tiny-math-trainer:8090``. Unset: they share ``storage.weights_dir`` and nothing is
    served."""

    weights_host: str = "0.0.0.0"
    """Address that is listened on."""

    weights_port: Annotated[int, Field(ge=1, le=65_535)] = 8090
    """Port that is listened on."""


def check_serving(serving: ServingSettings, settings: TrainerSettings) -> None:
    """Raises ConfigurationError when weights were to be served to everybody."""
    if serving.weights_url is not None and settings.token_file is None:
        raise ConfigurationError(
            faults=[
                "token_file is missing; it is required with SRT_TRAINER_WEIGHTS_URL: engines "
                "present its token"
            ]
        )
