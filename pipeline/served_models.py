"""Hold the models that requests need, each once, within a bound of memory.

Models are read by a thread of their own while others answer. A request takes all of its models
together or none, so that two requests never wait for each other; what nobody uses is let go, the
least recently used first, when another model needs its place, or after some idle time.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from pipeline.errors import ModelError
from pipeline.formatting import Formatter
from pipeline.hydra import ADAPTER_FILE, merge, read_adapter_config
from pipeline.judges import RewardJudge
from pipeline.models import check_place, load_base, refuse_pickle
from pipeline.serving_messages import LoadedModel, Role
from pipeline.streaming import Policy
from pipeline.tokenizer import load_tokenizer

Served = Policy | RewardJudge
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
    """

    role: Role
    path: str
    stamp: int
    name: str = field(compare=False)
    size: int = field(compare=False)


def find_model(role: Role, place: str) -> Need:
    """Find a model on disk, or fetch it from the Hub, and tell how much memory it takes.

    Raises:
        ModelError: if there is none, or it is pickled.
    """
    path = Path(place).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"No file {path}. Check the path of the GGUF.")
        stamp = path.stat().st_mtime_ns
        return Need(role, str(path), stamp, place, _gguf_size(path, stamp))
    check_place(place)
    folder = path.resolve() if path.is_dir() else _fetch(place)
    refuse_pickle(folder)
    size = sum(map(_file_size, _weight_files(folder)))
    if is_adapter(folder):
        size += find_model(role, adapted_base(folder)).size
    stamp = max(file.stat().st_mtime_ns for file in folder.iterdir())
    return Need(role, str(folder), stamp, place, size)


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
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(
            f"No model could be loaded from {name} ({reason}). "
            "Give a folder with safetensors, or a model's name and a connection."
        ) from error


def _weight_files(folder: Path) -> Iterable[Path]:
    """Return the files that transformers reads of all in a folder."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in set(index["weight_map"].values())]
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


def load_model(need: Need, device: torch.device) -> Served:
    """Load a policy or a reward model in float32.

    Raises:
        ModelError: if it cannot be loaded, has no chat template, or is of the other kind.
    """
    if need.role == "reward":
        return RewardJudge(Path(need.path), device)
    model, tokenizer = _load_policy(Path(need.path))
    model.requires_grad_(False).eval().to(device)
    return Policy(need.name, model, Formatter(tokenizer))


def _load_policy(path: Path) -> tuple[Any, Any]:
    if not is_adapter(path):
        base = load_base(str(path))
        return base.model, base.tokenizer
    base = load_base(find_model("policy", adapted_base(path)).path)
    try:
        merged = merge(base.model, path)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The adapter in {path} does not fit its base {adapted_base(path)} ({reason}). "
            "Name the folder of the merged model."
        ) from error
    own = any(path.glob("tokenizer*"))
    return merged, load_tokenizer(path) if own else base.tokenizer


@dataclass
class _Entry:
    """A model that is held or being read, and who uses it."""

    need: Need
    model: Future[Served]
    users: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def is_idle(self) -> bool:
        return self.users == 0 and self.model.done()


@dataclass(frozen=True)
class Lease:
    """Models that stay as long as a request uses them.

    Attributes:
        models: one for each that was asked for, in that order.
        missing: those that had to be read from disk.
    """

    models: Sequence[Future[Served]]
    missing: Sequence[Need]
    _entries: Sequence[_Entry]

    @property
    def is_ready(self) -> bool:
        """Tell whether all models are there, or failed to be."""
        return all(model.done() for model in self.models)


class ServedModels:
    """Keep models in memory for whoever asks.

    Args:
        bound: bytes that their weights may take together.
        device: where they compute.
        on_loaded: called, from another thread, whenever a model is there or failed to be.
        load: reads one.
    """

    def __init__(
        self,
        bound: int,
        device: torch.device,
        on_loaded: Callable[[], object],
        load: Callable[[Need, torch.device], Served] = load_model,
    ) -> None:
        self._bound, self._device, self._on_loaded, self._load = bound, device, on_loaded, load
        self._entries: dict[Need, _Entry] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")

    def lease(self, needs: Sequence[Need]) -> Lease | None:
        """Return the models, to be released later, or None where there is no room until others are.

        Raises:
            ModelError: if there will never be room.
        """
        distinct = list(dict.fromkeys(needs))
        self._check_bound(distinct)
        with self._lock:
            self._drop([entry for entry in self._entries.values() if self._is_outdated(entry)])
            missing = [need for need in distinct if need not in self._entries]
            excess = sum(need.size for need in [*self._entries, *missing]) - self._bound
            if not self._make_room(excess, keep=distinct):
                return None
            for need in missing:
                future = self._loader.submit(self._load, need, self._device)
                self._entries[need] = _Entry(need, future)
            entries = [self._entries[need] for need in distinct]
            for entry in entries:
                entry.users += 1
        for need in missing:
            # Outside the lock: a load that has already failed calls back at once.
            self._entries[need].model.add_done_callback(lambda _: self._on_loaded())
        by_need = dict(zip(distinct, entries, strict=True))
        return Lease([by_need[need].model for need in needs], missing, entries)

    def release(self, lease: Lease) -> None:
        """Give models back that a request no longer uses."""
        with self._lock:
            for entry in lease._entries:
                entry.users -= 1
                entry.used = time.monotonic()

    def drop_idle(self, seconds: float) -> None:
        """Let go of models that nobody has used for so long."""
        before = time.monotonic() - seconds
        with self._lock:
            idle = (entry for entry in self._entries.values() if entry.is_idle)
            self._drop([entry for entry in idle if entry.used < before])

    def list(self) -> tuple[LoadedModel, ...]:
        """Return the models that are held, the most recently used first."""
        now = time.monotonic()
        with self._lock:
            held = [entry for entry in self._entries.values() if entry.model.done()]
            held.sort(key=lambda entry: (entry.users > 0, entry.used), reverse=True)
            return tuple(
                LoadedModel(
                    entry.need.name,
                    entry.need.role,
                    entry.need.size,
                    entry.users > 0,
                    0.0 if entry.users else now - entry.used,
                )
                for entry in held
            )

    def _check_bound(self, needs: Sequence[Need]) -> None:
        together = sum(need.size for need in needs)
        if together > self._bound:
            names = " and ".join(need.name for need in needs)
            verb = "need" if len(needs) > 1 else "needs"
            raise ModelError(
                f"{names} {verb} {together / 1e9:.3g} GB of memory, more than the "
                f"{self._bound / 1e9:.3g} GB that models may take. Raise the bound, or use "
                f"{'fewer or ' if len(needs) > 1 else ''}smaller models."
            )

    def _is_outdated(self, entry: _Entry) -> bool:
        """Tell whether an unused entry failed to load, or its files were changed since."""
        if not entry.is_idle:
            return False
        return entry.model.exception() is not None or any(
            other.path == entry.need.path
            and other.role == entry.need.role
            and other.stamp > entry.need.stamp
            for other in self._entries
        )

    def _make_room(self, excess: int, keep: Sequence[Need]) -> bool:
        """Let go of unused models until ``excess`` bytes are free; of none if it cannot be."""
        idle = [entry for entry in self._entries.values() if entry.is_idle]
        idle.sort(key=lambda entry: entry.used)
        gone: list[_Entry] = []
        for entry in idle:
            if excess <= 0:
                break
            if entry.need not in keep:
                gone.append(entry)
                excess -= entry.need.size
        if excess > 0:
            return False
        self._drop(gone)
        return True

    def _drop(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            del self._entries[entry.need]
        if entries:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
