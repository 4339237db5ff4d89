"""Open the rewards that ``ppo.rewards`` lists, and say what they were made from.

A reward model with the policy's vocabulary and chat template reads the sampled ids as they are.
Any other reads the decoded text by its own tokenizer, where ``retokenize`` says so; without it a
model of another vocabulary is refused, for the same ids would mean other words to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config.ppo import PpoSection
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError
from pipeline.formatting import PROBE, Formatter, render_chat
from pipeline.models import check_place, load_reward_model, reads_last_token, set_attention
from pipeline.pretraining import hash_base
from pipeline.records import Message, Prompt
from pipeline.reward_functions import hash_function, load_function
from pipeline.rewards import FunctionReward, ModelReward, Reward, TextReward, WeightedSum
from pipeline.tokenizer import find_difference, load_tokenizer

logger = logging.getLogger(__name__)

REVISION = "revision of "
SHOWN = 24
"""Characters that an error shows where two renderings part."""
PROBES: tuple[Message, ...] = (
    {"role": "user", "content": PROBE},
    {"role": "assistant", "content": PROBE},
    {"role": "user", "content": PROBE},
)


@dataclass(frozen=True)
class OpenRewards:
    """Hold what scores completions.

    Attributes:
        reward: the weighted sum.
        value_start: the reward model that the value model starts from; None where no reward model
            reads the policy's ids.
        revisions: ``revision of NAME`` to the commit of each model that came from the hub.
    """

    reward: Reward
    value_start: str | None
    revisions: Mapping[str, str]


def hash_rewards(section: PpoSection, where: str) -> dict[str, str]:
    """Map functions and models that no stage made to hashes of their files.

    A model of the hub gives its own name, for its revision is known only once it is loaded.

    Raises:
        ConfigError: if a function cannot be imported.
        ModelError: if a model's folder is not there, or its weights are pickled.
    """
    hashes: dict[str, str] = {}
    for path, source in section.reward_paths(where):
        if source.function is not None:
            hashes[source.function] = hash_function(source.function, path)
        elif source.model is not None:
            check_place(source.model)
            hashes |= hash_base(source.model)
    return hashes


def open_rewards(
    section: PpoSection,
    workers: Workers,
    policy: Formatter,
    folders: Mapping[str, Path],
    prompts: Sequence[Prompt],
    stage: str,
    loaded: Mapping[str, Any] | None = None,
) -> OpenRewards:
    """Load the rewards of a PPO stage.

    Args:
        section: the stage's configuration.
        workers: the processes at work.
        policy: formatter of the policy's tokenizer.
        folders: reward stage to its ``model/``.
        prompts: what will be asked; models that read text must be able to render all of it.
        stage: the stage's name, for errors.
        loaded: reward stage to its model, where it is in memory already.

    Raises:
        ConfigError: if a model of another vocabulary or chat template is to read ids.
        ModelError: if a model cannot be loaded, or is no reward model.
        RewardError: if a model's chat template refuses a prompt, or has no room for it.
    """
    parts: list[tuple[float, Reward]] = []
    starts: dict[str, str] = {}
    revisions: dict[str, str] = {}
    _note_padding(policy.tokenizer, "the policy", workers)
    for where, source in section.reward_paths(stage):
        named = {"name": source.label, "where": where}
        if source.function is not None:
            function = load_function(source.function, where)
            parts.append((source.weight, FunctionReward(function, workers, **named)))
            continue
        path = str(folders[source.stage]) if source.stage is not None else str(source.model)
        tokenizer = load_tokenizer(path)
        _note_padding(tokenizer, path, workers)
        if not source.retokenize:
            _check_vocabulary(policy, tokenizer, prompts, where, path)
            starts.setdefault(source.kind, path)
        model = (loaded or {}).get(source.stage or "")
        if model is None:
            model = load_reward_model(path, DTYPES[section.precision])
        commit = getattr(model.config, "_commit_hash", None)
        if commit:
            revisions[f"{REVISION}{path}"] = str(commit)
        batch_size = section.rollout_micro_batch_size
        if source.retokenize:
            reader = TextReward(model, tokenizer, workers, **named, batch_size=batch_size)
            for prompt in prompts:
                reader.encode(prompt, "")
            parts.append((source.weight, reader))
        else:
            _check_decoder(model, where)
            if isinstance(model, PreTrainedModel):
                set_attention(model, section.attention, stage)
            scorer = ModelReward(model, workers, **named, batch_size=batch_size)
            parts.append((source.weight, scorer))
    start = starts.get("stage", starts.get("model"))
    return OpenRewards(WeightedSum(parts, f"{stage}.rewards"), start, revisions)


def _check_vocabulary(
    policy: Formatter,
    theirs: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    where: str,
    path: str,
) -> None:
    """Check that a reward model reads the policy's ids, and conversations rendered as they are."""
    conversations = [PROBES, *(prompt.messages for prompt in prompts)]
    difference = find_difference(policy.tokenizer, theirs) or _find_template_difference(
        policy.tokenizer, theirs, conversations
    )
    if difference is not None:
        raise ConfigError(
            f"{where} must have the policy's vocabulary and chat template, got {path}: "
            f"{difference}. List it in ppo.rewards with retokenize: true, to let it read the "
            "decoded text by its own."
        )


def _find_template_difference(
    ours: PreTrainedTokenizerBase,
    theirs: PreTrainedTokenizerBase,
    conversations: Iterable[Sequence[Message]],
) -> str | None:
    """Say where their chat template renders one of the conversations otherwise, or return None."""
    # A tokenizer without a template says nothing of how conversations were rendered.
    if theirs.chat_template in (None, ours.chat_template):
        return None
    for messages in conversations:
        here, there = render_chat(ours, messages), render_chat(theirs, messages)
        if here != there:
            parts = enumerate(zip(here, there, strict=False))
            at = next((i for i, (a, b) in parts if a != b), min(len(here), len(there)))
            return (
                f"character {at} of a conversation begins {there[at : at + SHOWN]!r} there and "
                f"{here[at : at + SHOWN]!r} here"
            )
    return None


def _note_padding(tokenizer: PreTrainedTokenizerBase, whose: str, workers: Workers) -> None:
    """Tell the user that padding is no end of a text here, where a tokenizer takes one for both."""
    pad = tokenizer.pad_token_id
    if pad is not None and pad == tokenizer.eos_token_id and workers.rank == 0:
        logger.warning(
            "the tokenizer of %s pads with its end %s: rows are padded behind a mask, ends stay",
            *(whose, tokenizer.eos_token),
        )


def _check_decoder(model: PreTrainedModel, where: str) -> None:
    """Check that a reward model is built as the line's own, which read rows padded on the left."""
    ours = hasattr(model, "model") or not isinstance(model, PreTrainedModel)
    if not (reads_last_token(model) and ours):
        raise ConfigError(
            f"{where} must be a decoder with a linear head to read the policy's tokens, got "
            f"{type(model).__name__}. Set retokenize: true to give it text."
        )
