"""Write model cards: what a model is, what it was made from, and how to load it.

A card quotes configuration and data paths, which may hold anything. Every such value stands in a
code span, the one place of Markdown where neither HTML, nor an image, nor a link is ever made of
what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pipeline.runs import Manifest

LONGEST = 300
"""Characters of a quoted value; a longer one is cut."""

LOADING = {
    "policy": "AutoModelForCausalLM",
    "reward": "AutoModelForSequenceClassification",
    "value": "AutoModelForTokenClassification",
}
FRONT_MATTER = {
    "policy": "pipeline_tag: text-generation",
    "reward": "pipeline_tag: text-classification",
    "value": "pipeline_tag: token-classification",
}
LICENCE = (
    "The licence of these weights follows from the base and the data named above; it was not "
    "determined here. Read theirs before use."
)


def quote(value: object) -> str:
    """Show a value literally, as one Markdown code span.

    The fence is longer than any run of backticks inside, and control characters, which could end
    the line or turn the text around, are written as their code points.
    """
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))
    if len(text) > LONGEST:
        text = text[:LONGEST] + "..."
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    gap = " " if "`" in text or not text.strip() else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def write_card(
    manifest: Manifest,
    *,
    kind: Literal["policy", "reward", "value"] = "policy",
    origin: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    score_offset: float | None = None,
) -> str:
    """Write a model's card.

    Args:
        manifest: of the stage that made the model.
        kind: which of transformers' classes loads it.
        origin: what is known of the base's source.
        settings: key hyper-parameters.
        metrics: final figures; nested ones are left to the manifest.
        score_offset: what demonstrations score on average under a reward model.
    Returns:
        Markdown with the front matter that Hugging Face reads.
    """
    parts = [
        f"---\nlibrary_name: transformers\n{FRONT_MATTER[kind]}\ntags:\n- steerline\n---",
        f"# {quote(manifest.stage)}",
        f"Made by the stage {quote(manifest.stage)} of a Steerline run with seed "
        f"{quote(manifest.seed)}, on {quote(manifest.device)} and {manifest.world_size} "
        f"process(es). Its `manifest.json` holds the whole lineage.",
        _section("Made from", _lineage(manifest, origin)),
        _section("Settings", settings or {}),
        _section("Figures", _flat(metrics or {})),
        _loading(kind, score_offset),
        f"## Licence\n\n{LICENCE}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _lineage(manifest: Manifest, origin: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        **{f"base: {key}": value for key, value in (origin or {}).items() if value},
        **{f"stage {name}, manifest": digest for name, digest in manifest.parents.items()},
        **{f"data {path}": digest for path, digest in manifest.sources.items()},
        "configuration": manifest.config_hash,
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, int | float | str)}


def _section(title: str, values: Mapping[str, Any]) -> str:
    lines = [f"- {quote(key)}: {quote(value)}" for key, value in values.items()]
    return "\n".join([f"## {title}\n", *lines]) if lines else ""


def _loading(kind: str, score_offset: float | None) -> str:
    name = LOADING[kind]
    text = (
        "## Use\n\n```python\n"
        f"from transformers import AutoTokenizer, {name}\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("<this folder>")\n'
        f'model = {name}.from_pretrained("<this folder>")\n```'
    )
    if score_offset is None:
        return text
    return (
        f"{text}\n\nPlain transformers returns the score before the offset: subtract "
        f"`config.score_offset` ({score_offset!r}) and demonstrations score 0 on average. The "
        "ranking is the same either way."
    )
