"""Find the models of a run that can be asked: what its stages made, and checkpoints on the way.

A checkpoint need not hold all that an answer takes. Those of ``pretrain`` and ``ppo`` have no
tokenizer: theirs is their stage's, or that of the stage whose model theirs began as. Those of
adapters name their base. What is found here says where the rest is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.run import SECTIONS, stage_of
from pipeline.errors import RunError
from pipeline.runs import Manifest, checkpoint_path, list_checkpoints

ModelKind = Literal["policy", "reward"]
KINDS: Mapping[str, ModelKind] = {
    "ForCausalLM": "policy",
    "LMHeadModel": "policy",
    "ForSequenceClassification": "reward",
}
"""What a model is, by the end of its architecture's name."""
PARTS = ("average", "policy", "")
"""Where in a checkpoint its policy is: the first that is there. PPO's average is what ``model/``
would hold, as in win rates."""
TOKENIZER = "tokenizer_config.json"
"""A folder with this file holds a tokenizer."""


@dataclass(frozen=True)
class ModelPlace:
    """Say where a model is that can be loaded.

    Attributes:
        run: the run's name.
        stage: stage or variant.
        step: of the checkpoint; None for the stage's finished model.
        kind: what it does.
        path: its folder.
        tokenizer: folder of its tokenizer; None where its own folder, or its adapter's base, has
            one.
    """

    run: str
    stage: str
    step: int | None
    kind: ModelKind
    path: Path
    tokenizer: Path | None = None

    @property
    def id(self) -> str:
        """Name it among all models of the runs."""
        return f"{self.run}/{self.label}"

    @property
    def label(self) -> str:
        """Name it among the models of its run."""
        return self.stage if self.step is None else f"{self.stage}, step {self.step}"

    @property
    def name(self) -> str:
        """Name it among the models of its run as win rates and the command line do."""
        return self.stage if self.step is None else f"{self.stage}.{self.step}"


def find_models(run_dir: Path) -> Iterator[ModelPlace]:
    """Yield the models of a run in the order of the line, a stage's finished one first."""
    order = list(SECTIONS)
    stages = [path.parent for path in run_dir.glob("*/manifest.json")]
    stages = [path for path in stages if stage_of(path.name) in SECTIONS]
    for stage in sorted(stages, key=lambda path: (order.index(stage_of(path.name)), path.name)):
        finished = stage / "model"
        kind = _kind_of(finished)
        if kind is not None and has_tokenizer(finished):
            yield ModelPlace(run_dir.name, stage.name, None, kind, finished)
        # A reward model is none before its offset is known, which its stage measures last.
        if stage_of(stage.name) != "reward":
            yield from _find_checkpoints(run_dir.name, stage)


def _find_checkpoints(run: str, stage: Path) -> Iterator[ModelPlace]:
    for step in list_checkpoints(stage):
        places = (checkpoint_path(stage, step) / part for part in PARTS)
        found = next((place for place in places if _kind_of(place) == "policy"), None)
        if found is None:
            continue
        tokenizer = find_tokenizer(found)
        if tokenizer is not None or has_tokenizer(found) or _is_adapter(found):
            yield ModelPlace(run, stage.name, step, "policy", found, tokenizer)


def find_tokenizer(path: Path) -> Path | None:
    """Return the folder of a checkpoint's tokenizer.

    Args:
        path: a checkpoint's folder, or a part of it: ``ppo/checkpoints/step-00000040/policy``.
    Returns:
        None where the folder has a tokenizer of its own, is no checkpoint of a run, or none is
        found: a cut ``pretrain`` of an earlier version has left none.
    """
    if has_tokenizer(path):
        return None
    here = path.expanduser().absolute()
    for folder in (here, here.parent):
        if folder.name.startswith("step-") and folder.parent.name == "checkpoints":
            return _tokenizer_of(folder.parent.parent)
    return None


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer."""
    return (folder / TOKENIZER).is_file()


def _tokenizer_of(stage: Path) -> Path | None:
    """Return the tokenizer that a stage trains with: its own, or of the policy it began as."""
    own = [stage / "tokenizer", stage / "model"]
    parents = [stage.parent / parent / "model" for parent in _parents(stage)]
    # Of PPO's parents, reward models have tokenizers too, which need not be the policy's.
    places = own + [parent for parent in parents if _kind_of(parent) == "policy"]
    return next((place for place in places if has_tokenizer(place)), None)


def _parents(stage: Path) -> list[str]:
    try:
        manifest = Manifest.read(stage)
    except (RunError, OSError):
        return []
    return [] if manifest is None else list(manifest.parents)


def _kind_of(folder: Path) -> ModelKind | None:
    """Say what the model in a folder is; None where there is none that could be loaded."""
    if not any(folder.glob("*.safetensors")):
        return None
    config = _read(folder / "config.json")
    names = config.get("architectures")
    if isinstance(names, list) and names:
        return next((kind for end, kind in KINDS.items() if str(names[0]).endswith(end)), None)
    return "policy" if _is_adapter(folder) else None


def _is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter of a language model instead of a model."""
    if (folder / "config.json").is_file():
        return False
    settings = _read(folder / "adapter_config.json")
    return settings.get("task_type") == "CAUSAL_LM" and bool(
        settings.get("base_model_name_or_path")
    )


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one where there is none."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
