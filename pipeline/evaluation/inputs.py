"""Hash what an evaluation is made from, so that a change of it is noticed."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig

from pipeline.artifacts import hash_text
from pipeline.config.evaluate import EvaluateSection
from pipeline.data import hash_sources
from pipeline.errors import ModelError
from pipeline.evaluation.catalogue import hash_tasks
from pipeline.evaluation.cells import task_formats
from pipeline.models import check_place
from pipeline.pretraining import hash_base


def hash_inputs(section: EvaluateSection, seed: int) -> dict[str, str]:
    """Hash the data, the files of tasks, and the formats that tasks are read in.

    lm_eval's own tasks are known by its version, which is one of those formats.

    Args:
        section: what is measured.
        seed: the tiny world's.
    """
    data = hash_sources([*section.perplexity, *section.prompts], seed)
    if not section.tasks:
        return data
    formats = hash_text(json.dumps(task_formats()))
    return data | hash_tasks(section.tasks, section.data, seed) | {"task formats": formats}


def hash_model(place: str) -> str:
    """Hash a model by its files, or by its commit on the hub.

    Args:
        place: a folder, a .gguf file, or a name on the hub.

    Raises:
        ModelError: if there is none.
    """
    path = Path(place).expanduser()
    if path.suffix != ".gguf":
        check_place(place)
    elif not path.is_file():
        raise ModelError(f"No file {path}. Check the path of the GGUF.")
    if path.exists():
        return hash_base(place)[place]
    try:
        commit = getattr(AutoConfig.from_pretrained(place), "_commit_hash", None)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(
            f"No model could be found at {place} ({reason}). "
            "Give a folder, a .gguf file, or a model's name and a connection."
        ) from error
    return hash_text(f"{place}@{commit}")
