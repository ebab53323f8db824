"""Where a model's files lie on this machine.

* ``file://``: any folder; below ``/data/examples``, as in our images, the installed examples.
* ``hf://``: the hub's cache, filled when need be. Weights as safetensors and data files only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from srt_common.errors import ConfigurationError

_EXAMPLES: Final = "/data/examples/"
_DATA_FILES: Final = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def local_folder(uri: str) -> Path:
    """Folder of the model that ``uri`` names.

    Raises:
        ConfigurationError: it holds no model, or the hub cannot be reached.
    """
    scheme, _, rest = uri.partition("://")
    folder = _from_hub(rest) if scheme == "hf" else _from_disk(rest)
    if not (folder / "config.json").is_file():
        fault = f"spec.model.uri is {uri!r}: allowed is a folder with a config.json"
        raise ConfigurationError(faults=[f"{fault}; {folder} has none"])
    return folder


def examples_folder() -> Path:
    """The repository's examples, for a suite installed from its sources."""
    return Path(__file__).parents[3] / "docs" / "examples"


def _from_disk(path: str) -> Path:
    if path.startswith(_EXAMPLES) and not Path(path).exists():
        return examples_folder() / path.removeprefix(_EXAMPLES)
    return Path(path).expanduser().resolve()


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_DATA_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        fault = f"spec.model.uri is 'hf://{name}': it cannot be fetched: {error}"
        raise ConfigurationError(faults=[fault]) from error
