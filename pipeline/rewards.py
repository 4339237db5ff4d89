"""Score completions for PPO: reward models, Python functions, and weighted sums of them.

Every process holds the whole rollout and ends up with the same scores, whatever their number: a
model's rows are shared among the processes, and a function is called once, on rank 0, with all
completions. A reward that fails, or gives something else than one finite number a completion, is
refused before anything is learned from it, and the completion is named.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.distributed import Workers
from pipeline.episodes import spread
from pipeline.errors import ModelError, RewardError
from pipeline.formatting import Formatter, drop_special_tokens, render_chat
from pipeline.judges import score_rows
from pipeline.models import score_offset, score_sequences
from pipeline.records import Message, Prompt
from pipeline.rollout import Episodes

RewardFunction = Callable[[list[Prompt], list[str]], object]
SHOWN = 60
"""Characters of a completion that an error shows."""


@dataclass(frozen=True)
class Scores:
    """Hold what a reward says of a rollout, in float64.

    Attributes:
        total: what PPO maximises, [batch].
        components: the single rewards before their weights, in the order of the reward's
            ``names``, [batch, rewards].
    """

    total: Tensor
    components: Tensor


class Reward(Protocol):
    """Score a whole rollout; called on every process with the same arguments."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name the components, in their order."""

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """Return the models that it holds and nobody else does: they may be moved away."""

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], episodes: Episodes
    ) -> Scores:
        """Return the scores, the same on every process.

        Args:
            prompts: what was asked, one a row.
            completions: what was answered, as text without special tokens, one a row.
            episodes: the same rows in the policy's token ids.

        Raises:
            RewardError: if a completion has no finite score; names it.
        """


class ModelReward:
    """Score with a reward model that reads the policy's token ids; demonstrations score 0.

    Args:
        model: a decoder with one score, of ``models.load_reward_model``.
        workers: the processes at work.
        name: of the component.
        where: dotted path of the setting, for errors.
        batch_size: rows a forward pass.
    """

    def __init__(
        self, model: PreTrainedModel, workers: Workers, *, name: str, where: str, batch_size: int
    ) -> None:
        whole = isinstance(model, PreTrainedModel)  # Else a part of a backbone that is shared.
        self.model: Any = workers.freeze(model) if whole else workers.place(model)
        self.models: tuple[nn.Module, ...] = (self.model,) if whole else ()
        self.workers, self.names, self.where = workers, (name,), where
        self.batch_size = batch_size

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], episodes: Episodes
    ) -> Scores:
        """Return the reward model's scores less its offset."""
        lengths = episodes.lengths.tolist()
        for prompt, text, length in zip(prompts, completions, lengths, strict=True):
            check_context(self.model, length, self.where, prompt, text)

        @torch.no_grad()
        def compute(part: Episodes) -> dict[str, Tensor]:
            with self.workers.autocast():
                raw = score_sequences(self.model, part.ids, part.attention_mask)
            return {"scores": raw - score_offset(self.model)}

        dtype = self.model.score.weight.dtype
        scores = spread(self.workers, episodes, self.batch_size, dtype, compute)["scores"]
        return _alone(scores, self.where, prompts, completions)


class TextReward:
    """Score with a reward model that reads text: its own tokenizer, its own chat template.

    A third party's model reads the whole rendered conversation, as ``apply_chat_template`` gives
    it; a reward model of a Steerline run reads it up to the end of the answer's turn, as it was
    trained. Special tokens of its vocabulary that a completion spells out are left out.

    Args:
        model: of ``models.load_reward_model``.
        tokenizer: the model's own.
        workers: the processes at work.
        name: of the component.
        where: dotted path of the setting, for errors.
        batch_size: rows a forward pass.

    Raises:
        ModelError: if the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        workers: Workers,
        *,
        name: str,
        where: str,
        batch_size: int,
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"{where}: the tokenizer of {tokenizer.name_or_path!r} must have a chat template "
                "to render conversations, got none. Add chat_template.jinja to its folder."
            )
        self.model: Any = workers.freeze(model)
        self.models: tuple[nn.Module, ...] = (self.model,)
        self.tokenizer = tokenizer
        self.formatter = Formatter(tokenizer) if hasattr(model.config, "score_offset") else None
        pad_id = self.formatter.pad_id if self.formatter else tokenizer.pad_token_id
        # Padding stands behind a mask: without a token of its own, any will do.
        self.pad_id: int = 0 if pad_id is None else pad_id
        self.workers, self.names, self.where = workers, (name,), where
        self.batch_size = batch_size

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], episodes: Episodes
    ) -> Scores:
        """Return the reward model's scores less its offset, where it has one."""
        # Every process encodes all rows, so that all meet the same error.
        rows = [self.encode(*pair) for pair in zip(prompts, completions, strict=True)]
        with self.workers.autocast():
            raw = score_rows(self.model, rows, self.pad_id, self.batch_size, self.workers)
        scores = torch.tensor(raw, dtype=torch.float64, device=episodes.ids.device)
        return _alone(scores - score_offset(self.model), self.where, prompts, completions)

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Return the conversation in the model's own token ids.

        Raises:
            RewardError: if its chat template refuses the conversation, or it is too long for it.
        """
        text = drop_special_tokens(self.tokenizer, completion)
        try:
            if self.formatter is not None:
                ids = self.formatter.prompt_ids(prompt.messages)
                ids += self.formatter.completion_ids(text)
            else:
                answer: Message = {"role": "assistant", "content": text}
                rendered = render_chat(self.tokenizer, [*prompt.messages, answer])
                ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        except ModelError as error:
            said = f"{self.where}, {name_sample(prompt, completion)}: {error}"
            raise RewardError(said) from error
        check_context(self.model, len(ids), self.where, prompt, completion)
        return ids


class FunctionReward:
    """Score with a Python function: ``f(prompts, completions)`` gives a number a completion.

    It is called once a rollout, on rank 0, with lists of ``records.Prompt`` and of texts in the
    rollout's order, so that it may compare completions with one another. Where it raises, it is
    asked again for one completion after another, only to name the one at fault.

    Args:
        function: what to call; it should give the same numbers for the same texts.
        workers: the processes at work.
        name: of the component.
        where: dotted path of the setting, for errors.
    """

    def __init__(
        self, function: RewardFunction, workers: Workers, *, name: str, where: str
    ) -> None:
        self.function = function
        self.models: tuple[nn.Module, ...] = ()
        self.workers, self.names, self.where = workers, (name,), where

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], episodes: Episodes
    ) -> Scores:
        """Return the function's scores."""
        scores = self.workers.on_main(lambda: self._ask(prompts, completions))
        values = torch.tensor(scores, dtype=torch.float64, device=episodes.ids.device)
        return _alone(values, self.where, prompts, completions)

    def _ask(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        try:
            given = self.function(list(prompts), list(completions))
        except Exception as error:
            raise self._blame(prompts, completions, error) from error
        return self._read(given, prompts, completions)

    def _blame(
        self, prompts: Sequence[Prompt], completions: Sequence[str], error: Exception
    ) -> RewardError:
        """Name the first completion that the function raises at when it is asked for it alone."""
        for prompt, completion in zip(prompts, completions, strict=True):
            try:
                self.function([prompt], [completion])
            except Exception as cause:
                return refuse(self.where, _describe(cause), prompt, completion)
        what = f"{_describe(error)} for all {len(prompts)} and for none alone, the first"
        return refuse(self.where, what, prompts[0], completions[0])

    def _read(
        self, given: object, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> list[float]:
        """Return what the function gave as floats; arrays and tensors of one dimension will do."""
        items = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(items, Sequence) or isinstance(items, str | bytes):
            what = f"a {type(given).__name__}"
            raise refuse(self.where, what, prompts[0], completions[0])
        if len(items) != len(completions):
            what = f"{len(items)} numbers for {len(completions)} completions"
            row = min(len(items), len(completions) - 1)
            raise refuse(self.where, what, prompts[row], completions[row])
        scores = []
        for row, item in enumerate(items):
            plain = item.item() if getattr(item, "ndim", None) == 0 else item
            if not isinstance(plain, numbers.Real):
                what = _shorten(repr(item))
                raise refuse(self.where, what, prompts[row], completions[row])
            scores.append(_to_float(plain))
        return scores


class WeightedSum:
    """Add up rewards, each times its weight, in their order.

        r(x, y) = sum_i w_i r_i(x, y)

    Args:
        parts: weight and reward.
        where: dotted path of the setting, for errors.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]], where: str) -> None:
        self.parts, self.where = list(parts), where

    @property
    def names(self) -> tuple[str, ...]:
        """Name the components, in their order."""
        return tuple(name for _, part in self.parts for name in part.names)

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """Return the parts' models."""
        return tuple(model for _, part in self.parts for model in part.models)

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], episodes: Episodes
    ) -> Scores:
        """Return the sum, and the components of all parts."""
        scored = [(weight, part(prompts, completions, episodes)) for weight, part in self.parts]
        total = torch.stack([weight * scores.total for weight, scores in scored]).sum(dim=0)
        check_finite(total, self.where, prompts, completions)
        return Scores(total, torch.cat([scores.components for _, scores in scored], dim=1))


def check_finite(
    scores: Tensor, where: str, prompts: Sequence[Prompt], completions: Sequence[str]
) -> None:
    """Check that every score, [batch], is a finite number in float32.

    Raises:
        RewardError: if one is not; names its completion.
    """
    wrong = (~torch.isfinite(scores.float())).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        raise refuse(where, f"{scores[row].item():g}", prompts[row], completions[row])


def check_context(model: Any, length: int, where: str, prompt: Prompt, completion: str) -> None:
    """Check that a conversation is not longer than a reward model can read.

    Raises:
        RewardError: if it is.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and length > room:
        raise RewardError(
            f"{where} must be given conversations of at most {room} tokens, got {length} at "
            f"{name_sample(prompt, completion)}. Lower max_new_tokens, or shorten the prompts."
        )


def refuse(where: str, got: str, prompt: Prompt, completion: str) -> RewardError:
    """Make the error of a completion without a finite score."""
    return RewardError(
        f"{where} must give one finite number a completion, got {got} at "
        f"{name_sample(prompt, completion)}. No step was taken and the last checkpoint is kept; "
        "mend the reward."
    )


def name_sample(prompt: Prompt, completion: str) -> str:
    """Name a completion in an error: its prompt's id, and how it begins."""
    return f"prompt {prompt.id}, completion {_shorten(completion)!r}"


def _shorten(text: str, length: int = SHOWN) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}..."


def _describe(error: Exception) -> str:
    said = _shorten(str(error), 3 * SHOWN)
    return type(error).__name__ + (f" ({said})" if said else "")


def _to_float(number: numbers.Real) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer may have any number of digits
        return math.inf


def _alone(
    scores: Tensor, where: str, prompts: Sequence[Prompt], completions: Sequence[str]
) -> Scores:
    """Return the scores, [batch], of a single reward once they are found to be finite."""
    check_finite(scores, where, prompts, completions)
    values = scores.double()
    return Scores(values, values[:, None])
