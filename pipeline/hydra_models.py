"""Make PPO's models on one backbone, and save them so that each loads by itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.config.hydra import HydraSection
from pipeline.hydra import Backbone, Branch, add_reward, lora_config, merge, new_head
from pipeline.models import blank_value_model, check_adapters, load_policy, score_offset

POLICY, VALUE, AVERAGE = "policy", "value", "average"


@dataclass(frozen=True)
class Hydra:
    """PPO's models on one backbone.

    Attributes:
        backbone: what they share.
        policy: trained; with a value head where ``value_model`` is None.
        ref_policy: the backbone without adapters.
        value_model: trained, by an adapter of its own.
        reward_model: frozen; None where the reward comes from elsewhere.
        average: moving average of the policy's adapter; None keeps none.
    """

    backbone: Backbone
    policy: Branch
    ref_policy: Branch
    value_model: Branch | None
    reward_model: Branch | None
    average: Branch | None


def make_hydra(
    model: PreTrainedModel,
    section: HydraSection,
    *,
    start: Path,
    reward: tuple[Path, float] | None,
    averaged: bool,
    seed: int,
) -> Hydra:
    """Put adapters and heads on a language model.

    The value model starts as the reward model does: its adapter, its head, its offset as the bias.
    Without one, or on the policy's trunk, values start at 0 everywhere.

    Args:
        model: the policy's start.
        section: the adapters, and where values come from.
        start: the start's folder, for the adapters' own files.
        reward: folder of the adapters of a reward model that was trained on ``start``, and its
            offset; None where the reward comes from elsewhere.
        averaged: whether to keep a moving average.
        seed: of the adapters' first matrices.

    Raises:
        ConfigError: if a layer that is to get adapters is not in the model, or is not linear.
        ModelError: if the reward model's adapters do not fit.
    """
    check_adapters(model, section.lora, "ppo.hydra", (nn.Linear, Conv1D))
    backbone = Backbone(model)
    config = lora_config(section.lora, start)
    backbone.add(POLICY, config, seed=seed, trained=True)
    reward_model = None if reward is None else add_reward(backbone, *reward)
    value_head = value_model = average = None
    size, dtype = model.config.hidden_size, backbone.dtype
    if section.value == "trunk":
        value_head = new_head(size, dtype, bias=True)
    else:
        head = new_head(size, dtype, bias=True)
        theirs = config if reward_model is None else backbone.configs["reward"]
        backbone.add(VALUE, _with_dropout(theirs, section), seed=seed + 1, trained=True)
        if reward_model is not None:
            backbone.copy("reward", VALUE)
            with torch.no_grad():
                assert reward_model.score is not None, "a reward model has a head"
                head.weight.copy_(reward_model.score.weight)
                head.bias.fill_(-score_offset(reward_model))
        value_model = Branch(backbone, VALUE, head=head)
    if averaged:
        backbone.add(AVERAGE, config, seed=seed, trained=False)
        average = Branch(backbone, AVERAGE)
    policy = Branch(backbone, POLICY, value_head=value_head)
    return Hydra(backbone, policy, Branch(backbone, None), value_model, reward_model, average)


def resume_hydra(hydra: Hydra, checkpoint: Path) -> None:
    """Give the trained branches what a checkpoint holds of them."""
    branches = {POLICY: hydra.policy, VALUE: hydra.value_model, AVERAGE: hydra.average}
    for name, branch in branches.items():
        if branch is not None:
            branch.load_pretrained(checkpoint / name)


def merged_policy(start: Path, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the start with the adapter of a folder merged into its weights."""
    return merge(load_policy(start, dtype), adapter)


def merged_value_model(
    start: Path, folder: Path, branch: Branch, dtype: torch.dtype
) -> PreTrainedModel:
    """Return the value model as a token classifier of its own.

    Args:
        start: folder of the backbone's own weights.
        folder: what the branch wrote: the adapter that values are read under.
        branch: has the head, its own or on the policy.
        dtype: of the weights.
    """
    head = branch.score if branch.score is not None else branch.value_head
    assert head is not None, "the branch of a value model has a head"
    model = blank_value_model(start, merged_policy(start, folder, dtype), dtype)
    with torch.no_grad():
        model.score.weight.copy_(head.weight)
        model.score.bias.copy_(head.bias)
    return model


def _with_dropout(config: LoraConfig, section: HydraSection) -> LoraConfig:
    """Return a copy of an adapter's settings with the dropout of these."""
    changed = copy.deepcopy(config)
    changed.lora_dropout = section.lora.dropout
    return changed
