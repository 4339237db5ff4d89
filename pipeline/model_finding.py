"""Find the models that requests need, on disk or on the Hub, and tell what memory they take."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from pipeline.errors import ModelError
from pipeline.hydra import ADAPTER_FILE, read_adapter_config
from pipeline.models import check_place, refuse_pickle
from pipeline.serving_messages import Role

BYTES = 4
"""A weight takes in memory, float32, whatever its type on disk: figures are those of evaluation."""
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model on the Hub; pickles are left there."""
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Need:
    """A model that a request needs, found on disk; the same files in the same role are equal.

    Attributes:
        role: how to load it.
        path: a folder, or a GGUF file.
        stamp: when its files were last changed, nanoseconds: a stage run again is another model.
        name: as it was asked for.
        size: bytes of its weights in memory.
        tokenizer: a folder or a name on the Hub; None for the model's own.
    """

    role: Role
    path: str
    stamp: int
    name: str = field(compare=False)
    size: int = field(compare=False)
    tokenizer: str | None = None


def find_model(role: Role, place: str, tokenizer: str | None = None) -> Need:
    """Find a model on disk, or fetch it from the Hub, and tell how much memory it takes.

    Args:
        role: how it is to be loaded.
        place: a folder, a GGUF file or a name on the Hub.
        tokenizer: a folder or a name, of the tokenizer of a policy that has none.

    Raises:
        ModelError: if there is none, it is pickled, or it cannot be read.
    """
    try:
        return _find_model(role, place, tokenizer)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(f"{place} cannot be read ({reason}). Check the path.") from error


def _find_model(role: Role, place: str, tokenizer: str | None) -> Need:
    beside = None if tokenizer is None else Path(tokenizer).expanduser()
    if beside is not None and beside.is_dir():
        tokenizer = str(beside.resolve())
    path = Path(place).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"No file {path}. Check the path of the GGUF.")
        stamp = path.stat().st_mtime_ns
        return Need(role, str(path), stamp, place, _gguf_size(path, stamp), tokenizer)
    check_place(place)
    folder = path.resolve() if path.is_dir() else _fetch(place)
    refuse_pickle(folder)
    size = sum(map(_file_size, _weight_files(folder)))
    stamp = max(file.stat().st_mtime_ns for file in folder.iterdir())
    if is_adapter(folder):
        base = find_model(role, adapted_base(folder))
        size, stamp = size + base.size, max(stamp, base.stamp)
    return Need(role, str(folder), stamp, place, size, tokenizer)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter and not the model that it belongs to."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def adapted_base(folder: Path) -> str:
    """Return the model that an adapter was trained on.

    Raises:
        ModelError: if the adapter is pickled, is none of a language model, or names no base.
    """
    if not (folder / ADAPTER_FILE).is_file():
        raise ModelError(f"{folder} must hold {ADAPTER_FILE}, got none. Save the adapter as that.")
    try:
        task = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("task_type")
    except (ValueError, OSError) as error:
        raise ModelError(f"No adapter in {folder} ({error}). Check the path.") from error
    if task not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"{folder} must hold the adapter of a language model, got one of {task}. "
            "Name the folder of the merged model."
        )
    base: str | None = read_adapter_config(folder).base_model_name_or_path
    if not base:
        raise ModelError(
            f"{folder}/{ADAPTER} must name the adapter's base, got none. "
            "Add base_model_name_or_path, or name the folder of the merged model."
        )
    return base


def _fetch(name: str) -> Path:
    """Return the local copy of a model on the Hub, fetched where there is none yet."""
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"No model could be loaded from {name} ({reason}). "
            "Give a folder with safetensors, or a model's name and a connection."
        ) from error


def _weight_files(folder: Path) -> Iterable[Path]:
    """Return the files that transformers reads of all in a folder."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            return [folder / str(name) for name in set(index["weight_map"].values())]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{folder / INDEX} must name the files of the weights, got none "
                f"({type(error).__name__}). Export the model again."
            ) from error
    return folder.glob("*.safetensors")


def _file_size(path: Path) -> int:
    try:
        with safe_open(str(path), framework="pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}). Export the model again.") from error
    return BYTES * sum(map(math.prod, shapes))


@functools.lru_cache(maxsize=64)
def _gguf_size(path: Path, stamp: int) -> int:  # noqa: ARG001 - a changed file is read again
    # A reader goes through all of the vocabulary, which takes seconds: once is enough.
    from gguf import GGUFReader

    try:
        return BYTES * sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except (ValueError, IndexError, OSError) as error:
        raise ModelError(f"{path} is no readable GGUF ({error}). Download it again.") from error
