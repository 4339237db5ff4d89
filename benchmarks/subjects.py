"""Make what both sides work on: models of a shape with seeded weights, prompts, needed operations.

Speed depends on shapes, not on what the weights say, so the weights are random: nothing is
downloaded, and both sides load the same files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.peers import make_once
from benchmarks.side_by_side import ROOT
from pipeline.artifacts import hash_text
from pipeline.config.pretrain import ModelSection
from pipeline.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODELS = ROOT / "build" / "benchmarks"
CONTEXT = 512
FRAME = 4
"""Tokens that the chat template puts around a prompt: begin, user, end of turn, assistant."""


class Shape(NamedTuple):
    """A model's size: its blocks and its vocabulary."""

    blocks: ModelSection
    vocabulary: int


SHAPES = {
    "smollm2-135m": Shape(
        ModelSection(
            hidden_size=576,
            num_layers=30,
            num_heads=9,
            num_kv_heads=3,
            intermediate_size=1536,
            rope_theta=100000.0,
            tie_embeddings=True,
        ),
        49152,
    ),
    "small": Shape(
        ModelSection(
            hidden_size=256,
            num_layers=4,
            num_heads=8,
            num_kv_heads=4,
            intermediate_size=688,
            tie_embeddings=True,
        ),
        2048,
    ),
    "tiny": Shape(
        ModelSection(
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=128,
            tie_embeddings=True,
        ),
        512,
    ),
}
"""By name; ``smollm2-135m`` is that model's (its config.json)."""


class Folders(NamedTuple):
    """Where a shape's policy and reward model stand."""

    policy: Path
    reward: Path


def words_of(vocabulary: int) -> list[str]:
    """Return the words of the generated tokenizer, each of them one token."""
    from pipeline.tokenizer import SPECIAL_TOKENS

    return [f"w{i}" for i in range(vocabulary - len(SPECIAL_TOKENS))]


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of exactly ``vocabulary`` tokens: our special ones, and words by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from pipeline.tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD, ROLE_TOKENS, SPECIAL_TOKENS

    words = words_of(vocabulary)
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *words])}
    plain = Tokenizer(models.WordLevel(vocab, unk_token=words[0]))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(ROLE_TOKENS),
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_models(name: str, folder: Path = MODELS, seed: int = 0) -> Folders:
    """Return a shape's policy and reward model, float32, written unless they are there already."""
    shape = SHAPES[name]
    place = make_once(
        folder / f"{name}-{hash_text(repr((shape, seed)))[:8]}",
        lambda partial: _write_models(partial, shape, name, seed),
    )
    return Folders(place / "policy", place / "reward")


def _write_models(folder: Path, shape: Shape, name: str, seed: int) -> None:
    import torch

    from pipeline.formatting import Formatter
    from pipeline.models import new_llama, new_reward_model, save_model

    tokenizer = make_tokenizer(shape.vocabulary)
    torch.manual_seed(seed)
    policy, card = new_llama(shape.blocks, tokenizer, CONTEXT), f"# {name}, random weights\n"
    save_model(folder / "policy", policy, tokenizer, card)
    reward_model = new_reward_model(folder / "policy", Formatter(tokenizer), seed + 1)
    save_model(folder / "reward", reward_model, tokenizer, card)


def draw_prompts(count: int, tokens: int, vocabulary: int, seed: int = 0) -> list[Prompt]:
    """Draw prompts of random words, each exactly ``tokens`` long once the template is around it."""
    words = words_of(vocabulary)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(words), size=(count, tokens - FRAME))
    return [Prompt.from_text(" ".join(words[i] for i in row)) for row in drawn]


class Work(NamedTuple):
    """Matrix-product operations, 2 a multiplication with addition.

    Attributes:
        trunk: of the blocks' weights, a token.
        head: of the vocabulary's weights, a token whose logits are needed.
        attention: of scores and weighted values, a token and a token that it looks at.
    """

    trunk: float
    head: float
    attention: float

    def forward(self, length: int, logits: int) -> float:
        """Count one forward pass of a row of ``length`` tokens, ``logits`` of them with logits."""
        looked_at = length * (length + 1) / 2
        return self.trunk * length + self.head * logits + self.attention * looked_at


def work_of(shape: Shape) -> Work:
    """Count the operations of a shape's forward pass.

    trunk = 2 layers (2 d^2 + 2 d d_kv + 3 d f),   head = 2 d V,   attention = 4 layers d
    """
    blocks = shape.blocks
    width = blocks.hidden_size
    kv_width = width // blocks.num_heads * blocks.num_kv_heads
    block = 2 * width**2 + 2 * width * kv_width + 3 * width * blocks.intermediate_size
    return Work(
        trunk=2.0 * blocks.num_layers * block,
        head=2.0 * width * shape.vocabulary,
        attention=4.0 * blocks.num_layers * width,
    )


PASSES = {"full": (3, 3), "hydra": (2, 0), "lora": (2, 3)}
"""Forward passes' worth of training, of policy and value model, by which weights are trained."""


def ppo_work(
    shape: Shape, prompt: int, lengths: Sequence[int], epochs: int, mode: str = "full"
) -> float:
    """Count what one PPO iteration needs, whoever does it, without padding or recomputation.

        rollout  every token once, logits of the completion's
        score    reference with logits, reward and value model without
        train    policy with logits and value model, three times every epoch (forward, backward to
                 the inputs and to the weights); frozen weights need no third, values that are a
                 head on the policy no pass of their own, adapters next to nothing

    Args:
        shape: of all four models.
        prompt: tokens of a prompt.
        lengths: tokens of each completion.
        epochs: passes over the rollout.
        mode: which weights are trained, a key of ``PASSES``.
    """
    work, (policy, value) = work_of(shape), PASSES[mode]
    total = 0.0
    for length in lengths:
        whole = prompt + length
        with_logits, without = work.forward(whole, length), work.forward(whole, 0)
        rollout = work.forward(whole - 1, length)
        trained = policy * with_logits + value * without
        total += rollout + with_logits + 2 * without + epochs * trained
    return total


def spread_of(lengths: Sequence[int]) -> dict[str, float]:
    """Return mean, lowest, quartiles and highest of a list of lengths."""
    low, first, middle, third, high = np.percentile(lengths, [0, 25, 50, 75, 100])
    return {
        "count": len(lengths),
        "mean": round(math.fsum(lengths) / len(lengths), 2),
        "min": float(low),
        "q25": float(first),
        "median": float(middle),
        "q75": float(third),
        "max": float(high),
    }
