"""Hold the models that requests need, each once, within a bound of memory.

Models are read by a thread of their own while others answer. A request takes all of its models and
the room for its keys and values together or none, so that two requests never wait for each other;
what nobody uses is let go, the least recently used first, when another needs its place, or after
some idle time.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.formatting import Formatter
from pipeline.hydra import merge
from pipeline.judges import RewardJudge
from pipeline.model_finding import Need, adapted_base, find_model, is_adapter
from pipeline.models import load_base
from pipeline.serving_messages import LoadedModel
from pipeline.streaming import Policy
from pipeline.tokenizer import load_tokenizer

Served = Policy | RewardJudge


def load_model(need: Need, device: torch.device) -> Served:
    """Load a policy or a reward model in float32.

    Raises:
        ModelError: if it cannot be loaded, has no chat template, is of the other kind, or the
            tokenizer has more tokens than it.
    """
    if need.role == "reward":
        return RewardJudge(Path(need.path), device, name=need.name)
    model, tokenizer = _load_policy(Path(need.path), need.tokenizer)
    if need.tokenizer is not None:
        _check_vocabulary(need, model, tokenizer)
    model.requires_grad_(False).eval().to(device)
    return Policy(need.name, model, Formatter(tokenizer))


def _load_policy(path: Path, tokenizer: str | None) -> tuple[Any, Any]:
    """Load a language model and a tokenizer: the one named, else its own."""
    if not is_adapter(path):
        base = load_base(str(path), tokenizer=tokenizer)
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
    if tokenizer is None and any(path.glob("tokenizer*")):
        tokenizer = str(path)
    return merged, base.tokenizer if tokenizer is None else load_tokenizer(tokenizer)


def _check_vocabulary(need: Need, model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer some of whose tokens the model cannot read.

    Raises:
        ModelError: if there is such a token.
    """
    known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > known:
        raise ModelError(
            f"The tokenizer of {need.name} must have at most its {known} tokens, got "
            f"{len(tokenizer)} in {need.tokenizer}. Name the one that it was trained with."
        )


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
        room: bytes that are kept for keys and values.
    """

    models: Sequence[Future[Served]]
    missing: Sequence[Need]
    room: int
    _entries: Sequence[_Entry]

    @property
    def is_ready(self) -> bool:
        """Tell whether all models are there, or failed to be."""
        return all(model.done() for model in self.models)


class ServedModels:
    """Keep models in memory for whoever asks.

    Args:
        bound: bytes that their weights, and the keys and values of answers, may take together.
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
        self._room = 0
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")

    def lease(self, needs: Sequence[Need], room: int = 0, *, at_once: bool = False) -> Lease | None:
        """Return the models, to be released later, or None where there is no room until others are.

        Args:
            needs: the models.
            room: bytes of keys and values beside them.
            at_once: do not wait for others where the models are held, even beyond the bound.

        Raises:
            ModelError: if there will never be room.
        """
        distinct = list(dict.fromkeys(needs))
        self._check_bound(distinct, room)
        with self._lock:
            self._drop([entry for entry in self._entries.values() if self._is_outdated(entry)])
            missing = [need for need in distinct if need not in self._entries]
            weights = sum(need.size for need in [*self._entries, *missing])
            has_room = self._make_room(weights + self._room + room - self._bound, keep=distinct)
            if not has_room and (missing or not at_once):
                return None
            self._room += room
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
        return Lease([by_need[need].model for need in needs], missing, room, entries)

    def release(self, lease: Lease) -> None:
        """Give models back that a request no longer uses."""
        with self._lock:
            self._room -= lease.room
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

    def holds(self, needs: Sequence[Need]) -> bool:
        """Tell whether models are held, or being read, as they are now on disk."""
        with self._lock:
            return all(need in self._entries for need in needs)

    def fits(self, needs: Sequence[Need], room: int, beside: Sequence[Lease]) -> bool:
        """Tell whether there would be room for models if these leases were the only ones.

        Args:
            needs: the models.
            room: bytes of keys and values beside them.
            beside: leases that last.
        """
        kept = {entry.need for lease in beside for entry in lease._entries}
        weights = sum(need.size for need in kept | set(needs))
        return weights + sum(lease.room for lease in beside) + room <= self._bound

    def _check_bound(self, needs: Sequence[Need], room: int) -> None:
        weights = sum(need.size for need in needs)
        if weights + room <= self._bound:
            return
        names = " and ".join(need.name for need in needs)
        verb = "need" if len(needs) > 1 else "needs"
        if weights > self._bound:
            size = f"{weights / 1e9:.3g} GB of memory"
            advice = f"use {'fewer or ' if len(needs) > 1 else ''}smaller models"
        else:
            share = f"{room / 1e9:.3g} GB of it for keys and values"
            size = f"{(weights + room) / 1e9:.3g} GB of memory, {share}"
            advice = "ask for fewer answers or tokens"
        raise ModelError(
            f"{names} {verb} {size}, more than the {self._bound / 1e9:.3g} GB that models may "
            f"take. Raise the bound, or {advice}."
        )

    def _is_outdated(self, entry: _Entry) -> bool:
        """Tell whether an unused entry failed to load, or its files were changed since."""
        if not entry.is_idle:
            return False
        return entry.model.exception() is not None or any(
            other.path == entry.need.path
            and other.role == entry.need.role
            and other.tokenizer == entry.need.tokenizer
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
