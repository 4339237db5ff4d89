"""Say what is asked of the process that holds the models, and what it answers.

Plain frozen dataclasses without torch, which the app and the command line share with that process.
On the pipe between them each is one JSON object a line, ``{"type": class name, fields}``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import Problem, Section, check
from pipeline.errors import ConfigError
from pipeline.records import Message

Place = Path | str
"""Where a model is: a folder, a GGUF file, or a Hugging Face name."""
Role = Literal["policy", "reward"]
FinishReason = Literal["eos", "length", "stop"]
"""The model ended its answer itself, max_new_tokens cut it, or a stop string did."""


def check_prompt(prompt: Sequence[Message]) -> None:
    """Refuse a conversation that an assistant cannot answer.

    Raises:
        ConfigError: if it is empty, or its last turn is the assistant's.
    """
    if not prompt or prompt[-1]["role"] == "assistant":
        got = "the assistant's" if prompt else "none"
        raise ConfigError(f"prompt must end with a user's turn, got {got}. Add a question.")


def half_of_memory() -> int:
    """Return half of this machine's main memory, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True)
class ServingSettings(Section):
    """Say how much of the machine the models may take."""

    memory_bytes: int = field(default_factory=half_of_memory)
    """Weights, and keys and values of answers, held at once, bytes; the least recently used models
    go first."""
    threads: int = 1
    """CPU threads of a model's arithmetic."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models compute; auto takes a GPU where there is one."""
    idle_seconds: float = 900.0
    """A model that nobody asked anything for so long is let go."""
    active: int = 8
    """Requests for answers that are at work in turns, a token each; further ones wait, except that
    whoever has none at work begins one."""

    @property
    def share(self) -> int:
        """Return how many of those that are at work may be one asker's."""
        return max(1, self.active // 2)

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.not_positive("memory_bytes", "threads", "idle_seconds", "active")


@dataclass(frozen=True)
class GenerationRequest:
    """Ask one model to answer one prompt.

    All figures of an answer are of the model's own next-token distributions, at temperature 1 and
    before penalties and truncation, however the tokens were drawn.

    Attributes:
        model: the policy that answers.
        prompt: a conversation that ends with a user's turn.
        decoding: as of ``sample``; temperature 0 is greedy, and beams are not for streaming.
        samples: answers, of which each has random numbers of its own; 1 where greedy.
        seed: the same seed, prompt and sample give the same answer, the one that
            ``sample_completions`` gives.
        reference: the policy that the KL is from; None measures none.
        reward: a reward model that scores the finished answers; None gives no score, and no answer
            has one that is too long for it with the prompt.
        tokenizer: the policy's, where its folder has none, as that of a checkpoint.
        reference_tokenizer: likewise the reference's.
        asker: who asks, by any name: askers have their turns one after the other.
    """

    model: Place
    prompt: tuple[Message, ...]
    decoding: DecodingSection = field(default_factory=DecodingSection)
    samples: int = 1
    seed: int = 0
    reference: Place | None = None
    reward: Place | None = None
    tokenizer: Place | None = None
    reference_tokenizer: Place | None = None
    asker: str = ""

    def check(self) -> None:
        """Refuse what cannot be streamed.

        Raises:
            ConfigError: if a parameter of the decoding is out of its range, there are beams, there
                is not one sample at least, or several greedy ones, or nothing to answer.
        """
        check_prompt(self.prompt)
        check(self.decoding, "")
        if self.decoding.num_beams > 1:
            raise ConfigError(
                f"num_beams must be 1 to watch an answer grow, got {self.decoding.num_beams}. "
                "Set num_beams: 1."
            )
        if self.samples < 1:
            raise ConfigError(f"samples must be 1 or more, got {self.samples}. Ask for 1.")
        if self.samples > 1 and self.decoding.temperature == 0:
            raise ConfigError(
                f"samples must be 1 at temperature 0, where all are alike, got {self.samples}. "
                "Raise the temperature."
            )


@dataclass(frozen=True)
class DistributionRequest:
    """Ask what a model would say next.

    Attributes:
        model: the policy.
        prompt: a conversation that ends with a user's turn.
        prefix: ids of the answer so far, from ``Token.id``.
        chosen: a token whose place in the distribution is wanted too.
        top: likeliest tokens to return.
        reference: a policy with the same tokenizer whose probabilities stand beside.
        tokenizer: as of ``GenerationRequest``.
        reference_tokenizer: as of ``GenerationRequest``.
        asker: as of ``GenerationRequest``.
    """

    model: Place
    prompt: tuple[Message, ...]
    prefix: tuple[int, ...] = ()
    chosen: int | None = None
    top: int = 10
    reference: Place | None = None
    tokenizer: Place | None = None
    reference_tokenizer: Place | None = None
    asker: str = ""

    def check(self) -> None:
        """Refuse what has no answer.

        Raises:
            ConfigError: if no token is asked for, or there is nothing to answer.
        """
        check_prompt(self.prompt)
        if self.top < 1:
            raise ConfigError(f"top must be 1 or more, got {self.top}. Ask for 10.")


@dataclass(frozen=True)
class Queued:
    """Wait for others, or for memory.

    Attributes:
        position: 1 is the next in line.
    """

    position: int


@dataclass(frozen=True)
class Loading:
    """Wait for a model that is read from disk.

    Attributes:
        path: the model.
        size: bytes of its weights.
    """

    path: str
    size: int


@dataclass(frozen=True)
class Notice:
    """Tell the user something in one line; the answer goes on.

    Attributes:
        text: what happened: no KL because of another tokenizer, the process started anew.
    """

    text: str


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        sample: which answer, from 0.
        id: the token; pass it on in ``DistributionRequest.prefix``.
        text: what it adds to the text, empty for the end, other special tokens, and the first bytes
            of a character; all of an answer's joined are its text before a stop string is cut.
        logprob: log-probability, nats.
        rank: place among all tokens by probability, 1 the likeliest.
        entropy: of the distribution that it comes from, nats.
        ref_logprob: log-probability under the reference; None without one.
        kl: of that distribution from the reference's, exactly, nats; None without one.
    """

    sample: int
    id: int
    text: str
    logprob: float
    rank: int
    entropy: float
    ref_logprob: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Finished:
    """One answer is whole.

    Attributes:
        sample: which answer, from 0.
        text: without special tokens, cut at a stop string.
        finish_reason: how it ended.
        tokens: length, the end not counted.
        logprob: sum over all tokens, nats.
        kl: sum over all tokens of ``Token.kl``: an estimate of the KL from the reference with less
            noise than ``log_ratio``; None without a reference.
        log_ratio: sum over all tokens of log pi - log pi_ref, whose mean over samples is the KL
            (``objective/kl`` of PPO's log); None without a reference.
        score: the reward model's, 0 for a demonstration on average; None without one.
    """

    sample: int
    text: str
    finish_reason: FinishReason
    tokens: int
    logprob: float
    kl: float | None = None
    log_ratio: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Failed:
    """End a request without an answer.

    Attributes:
        reason: one line for the user: what was wrong and what to do.
    """

    reason: str


Event = Queued | Loading | Notice | Token | Finished | Failed
"""What a request gives: any number of the others, then as many ``Finished`` as there are samples,
or one ``Failed``."""


@dataclass(frozen=True)
class Candidate:
    """A token that could come next.

    Attributes:
        id: the token.
        text: as it would be added to the answer; a special token is spelled out.
        probability: under the model.
        rank: place among all tokens, 1 the likeliest.
        ref_probability: under the reference; None without one.
    """

    id: int
    text: str
    probability: float
    rank: int
    ref_probability: float | None = None


@dataclass(frozen=True)
class Distribution:
    """What a model would say next.

    Attributes:
        tokens: the likeliest, most probable first.
        entropy: of the whole distribution, nats.
        chosen: the token that was asked for; None where none was.
    """

    tokens: tuple[Candidate, ...]
    entropy: float
    chosen: Candidate | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model that is held.

    Attributes:
        path: where it came from.
        role: how it was loaded.
        size: bytes of its weights.
        in_use: whether a request is using it.
        idle_seconds: since it was last used.
    """

    path: str
    role: Role
    size: int
    in_use: bool
    idle_seconds: float
