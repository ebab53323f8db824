"""What the trainer answers over HTTP to a rollout pod that fetches weights.

    GET /v1/weights/12                     the manifest of policy version 12
    GET /v1/weights/12/model.safetensors   one of its files; ranges are served

* Only safetensors files are named, and names lead nowhere else: data only, no code.
* Sizes and checksums are told before the files, so a reader refuses before it allocates.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

WEIGHTS_SERVICE_PATH: Final = "/v1/weights"
MAX_MANIFEST_BYTES: Final = 2**20
MAX_WEIGHT_FILES: Final = 4096


class WeightsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a policy version."""

    name: Annotated[
        str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors\Z", max_length=255)
    ]
    size: Annotated[int, msgspec.Meta(ge=0)]
    """Bytes."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class WeightsManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer of ``GET /v1/weights/{policy_version}``."""

    policy_version: Annotated[int, msgspec.Meta(ge=0)]
    files: Annotated[
        tuple[WeightsFile, ...], msgspec.Meta(min_length=1, max_length=MAX_WEIGHT_FILES)
    ]
    """In order of their names, each once."""

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files)


def weights_url(base_url: str, policy_version: int) -> str:
    """Where the manifest of a version lies; its files lie below."""
    return f"{base_url.rstrip('/')}{WEIGHTS_SERVICE_PATH}/{policy_version}"
