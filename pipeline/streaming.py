"""Answer one prompt token by token, with what a person may ask about each token.

Each function is a generator that does a slice of work between two events: whoever runs several of
them in turns keeps a long answer, or a long prompt, from holding up the others.

The tokens are those of ``pipeline.sampling``, keyed by (seed, prompt, sample); what is new here is
that a prompt is read once for all of its samples.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.cached_model import CachedModel
from pipeline.errors import DataError
from pipeline.formatting import Formatter
from pipeline.growing_text import GrowingText, spell
from pipeline.judges import RewardJudge
from pipeline.losses import token_entropy, token_logprobs
from pipeline.records import Prompt
from pipeline.sampling import Step, read_text, sample_steps, sampling_keys
from pipeline.serving_messages import (
    Candidate,
    Distribution,
    DistributionRequest,
    Event,
    Finished,
    GenerationRequest,
    Notice,
    Token,
)
from pipeline.tokenizer import find_difference

SLICE = 256
"""Tokens of a prompt, or of an answer that is scored, that are read at once."""


@dataclass(frozen=True)
class Policy:
    """A language model that is ready to answer.

    Attributes:
        name: where it came from.
        model: in evaluation mode.
        formatter: of its tokenizer.
    """

    name: str
    model: Any
    formatter: Formatter

    @property
    def context(self) -> int:
        """Return the longest sequence that it can read, tokens."""
        return int(self.model.config.max_position_embeddings)


class Figures(NamedTuple):
    """What models say of one token of each answer, one value a row.

    Attributes:
        logprobs: of the token, nats.
        ranks: its place among all tokens, from 1.
        entropies: of the distribution, nats.
        ref_logprobs: of the token under the reference; None without one.
        kls: of the distribution from the reference's, nats; None without one.
    """

    logprobs: list[float]
    ranks: list[int]
    entropies: list[float]
    ref_logprobs: list[float] | None = None
    kls: list[float] | None = None


def measure_tokens(logits: Tensor, tokens: Tensor, ref_logits: Tensor | None = None) -> Figures:
    """Measure the tokens that were chosen, and the distributions that they come from.

        KL = sum_v p_v (log p_v - log q_v)

    Args:
        logits: the policy's own, [rows, vocabulary].
        tokens: the chosen ones, [rows].
        ref_logits: the reference's, [rows, its vocabulary]; either may be padded beyond the tokens
            that both know.
    """
    chosen = logits.gather(-1, tokens[:, None])
    ranks = (logits > chosen).sum(dim=-1) + 1
    figures = Figures(
        token_logprobs(logits, tokens).tolist(), ranks.tolist(), token_entropy(logits).tolist()
    )
    if ref_logits is None:
        return figures
    shared = min(logits.shape[-1], ref_logits.shape[-1])
    ours, theirs = _log_softmax(logits)[:, :shared], _log_softmax(ref_logits)[:, :shared]
    # Where p is 0, q may be as well: 0 times the difference of two infinities is no number.
    terms = torch.where(ours.isfinite(), ours.exp() * (ours - theirs), 0.0)
    kls = terms.sum(dim=-1).clamp(min=0.0)
    return figures._replace(
        ref_logprobs=token_logprobs(ref_logits, tokens).tolist(), kls=kls.tolist()
    )


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


@dataclass
class _Answer:
    """One answer so far: its text and the sums over its tokens."""

    text: GrowingText
    logprob: float = 0.0
    kl: float = 0.0
    log_ratio: float = 0.0
    tokens: int = 0


def stream_answers(
    request: GenerationRequest,
    policy: Policy,
    reference: Policy | None = None,
    judge: RewardJudge | None = None,
) -> Iterator[Sequence[Event]]:
    """Yield the events of each slice of work, none of some, until all answers are finished.

    Args:
        request: what to answer, and how.
        policy: the request's model.
        reference: what the KL is from; a ``Notice`` says why where there can be none.
        judge: gives the finished answers their scores; a ``Notice`` says why where it cannot.

    Raises:
        DataError: if the prompt leaves no room for max_new_tokens in the model's context.
    """
    prompt, decoding, formatter = Prompt(request.prompt), request.decoding, policy.formatter
    room = policy.context - decoding.max_new_tokens
    (ids,) = formatter.check_lengths([prompt], room, "prompt")
    if reference is not None:
        obstacle = _say_obstacle(policy, reference, len(ids) + decoding.max_new_tokens)
        if obstacle is not None:
            yield [Notice(obstacle)]
            reference = None
    readers = [CachedModel(one.model) for one in (policy, reference) if one is not None]
    for reader in readers:
        for _ in _read(reader, ids[:-1]):
            yield []
        reader.repeat(request.samples)
    keys = sampling_keys(
        [prompt] * request.samples, range(request.samples), seed=request.seed, step=0
    )
    answers = [_Answer(GrowingText(formatter)) for _ in keys]
    scorer = _Scorer(judge)
    for step in sample_steps(readers[0], [ids] * len(keys), keys, decoding, formatter):
        ref_logits = readers[1].read(step.ids, step.mask) if reference is not None else None
        # As `sample_steps` does: where all go on, there is nothing to copy.
        if reference is not None and step.going.any() and not step.going.all():
            readers[1].keep(step.going)
        figures = measure_tokens(step.logits, step.tokens, ref_logits)
        yield _record(step, figures, answers, formatter)
        ended = step.rows[~step.going].tolist()
        if ended:
            has_kl = reference is not None
            yield from _finish(ended, answers, request, formatter, scorer, has_kl=has_kl)


def _say_obstacle(policy: Policy, reference: Policy, length: int) -> str | None:
    """Say why there can be no KL from a reference, or return None where there can."""
    difference = find_difference(policy.formatter.tokenizer, reference.formatter.tokenizer)
    if difference is not None:
        return f"No KL from {reference.name}: it has another tokenizer ({difference})."
    if length > reference.context:
        return (
            f"No KL from {reference.name}: its context is {reference.context} tokens, "
            f"and {length} may be needed."
        )
    return None


def _read(reader: CachedModel, ids: Sequence[int]) -> Iterator[Tensor]:
    """Let a model read tokens, a slice at a time, and yield what could come after each slice."""
    row = torch.tensor([list(ids)], dtype=torch.long, device=reader.device)
    mask = torch.ones_like(row, dtype=torch.bool)
    for start in range(0, len(ids), SLICE):
        end = start + SLICE
        yield reader.read(row[:, :end], mask[:, :end])


def _record(
    step: Step, figures: Figures, answers: Sequence[_Answer], formatter: Formatter
) -> list[Event]:
    """Add a step's tokens to the answers and return their events."""
    events: list[Event] = []
    places = zip(step.rows.tolist(), step.tokens.tolist(), step.going.tolist(), strict=True)
    for place, (sample, token, goes_on) in enumerate(places):
        answer = answers[sample]
        ref_logprob = kl = None
        if figures.ref_logprobs is not None and figures.kls is not None:
            ref_logprob, kl = figures.ref_logprobs[place], figures.kls[place]
            answer.kl += kl
            answer.log_ratio += figures.logprobs[place] - ref_logprob
        answer.logprob += figures.logprobs[place]
        answer.tokens += token != formatter.end_id
        events.append(
            Token(
                sample,
                token,
                answer.text.add(token, last=not goes_on),
                figures.logprobs[place],
                figures.ranks[place],
                figures.entropies[place],
                ref_logprob,
                kl,
            )
        )
    return events


class _Scorer:
    """Let a judge read answers, and say once that some are too long for it.

    Args:
        judge: None gives no scores.
    """

    def __init__(self, judge: RewardJudge | None) -> None:
        self._judge = judge
        self._has_told = False

    def score(self, prompt: Prompt, text: str) -> Generator[Sequence[Event], None, float | None]:
        """Yield after each slice that was read, and return the score; None where there is none."""
        if self._judge is None:
            return None
        ids = self._judge.encode(prompt, text)
        context = self._judge.context
        if context is not None and len(ids) > context:
            if not self._has_told:
                self._has_told = True
                yield [Notice(_say_too_long(self._judge.name, context))]
            return None
        score: float | None = None
        for found in self._judge.read_slices(ids, SLICE):
            yield []
            score = found
        return score


def _say_too_long(name: str, context: int) -> str:
    return (
        f"No score from {name} of an answer that does not fit in its context of {context} tokens "
        "with the prompt."
    )


def _finish(
    ended: Sequence[int],
    answers: Sequence[_Answer],
    request: GenerationRequest,
    formatter: Formatter,
    scorer: _Scorer,
    *,
    has_kl: bool,
) -> Iterator[Sequence[Event]]:
    """Score the answers that have ended, a slice at a time, and then yield their events."""
    events: list[Event] = []
    for sample in ended:
        answer = answers[sample]
        text = read_text(answer.text.ids, request.decoding, formatter)
        score = yield from scorer.score(Prompt(request.prompt), text.text)
        events.append(
            Finished(
                sample,
                text.text,
                text.finish_reason,
                answer.tokens,
                answer.logprob,
                answer.kl if has_kl else None,
                answer.log_ratio if has_kl else None,
                score,
            )
        )
    yield events


def find_distribution(
    request: DistributionRequest, policy: Policy, reference: Policy | None = None
) -> Iterator[Sequence[Distribution]]:
    """Yield nothing a few times, and then what the model would say next.

    Args:
        request: after which tokens, and what is asked of the distribution.
        policy: the request's model.
        reference: its probabilities stand beside where it has the same tokenizer.

    Raises:
        DataError: if a token is none of the model's, or the context is too short.
    """
    formatter = policy.formatter
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    given = [*request.prefix, *([] if request.chosen is None else [request.chosen])]
    wrong = [token for token in given if not 0 <= token < vocabulary]
    if wrong:
        raise DataError(
            f"prefix and chosen must hold tokens of {policy.name}, ids below {vocabulary}, got "
            f"{wrong[0]}. Take them from an answer of that model."
        )
    ids = [*formatter.prompt_ids(request.prompt), *request.prefix]
    if len(ids) > policy.context:
        raise DataError(
            f"The prompt and the answer so far must fit in the context of {policy.name}, "
            f"{policy.context} tokens, got {len(ids)}. Shorten them."
        )
    if reference is not None and _say_obstacle(policy, reference, len(ids)) is not None:
        reference = None
    logits: list[Tensor] = []
    for one in filter(None, (policy, reference)):
        for after in _read(CachedModel(one.model), ids):
            last = after[0]
            yield []
        logits.append(last)
    yield [_describe(request, logits, formatter.tokenizer)]


def _describe(
    request: DistributionRequest, logits: Sequence[Tensor], tokenizer: PreTrainedTokenizerBase
) -> Distribution:
    """Describe a distribution, [vocabulary], beside the reference's where there are two."""
    probabilities = [_log_softmax(row).exp() for row in logits]
    own = probabilities[0]

    def describe(token: int, rank: int) -> Candidate:
        known = len(probabilities) > 1 and token < len(probabilities[1])
        beside = float(probabilities[1][token]) if known else None
        text = spell(tokenizer, request.prefix, token)
        return Candidate(token, text, float(own[token]), rank, beside)

    top = own.topk(min(request.top, len(own))).indices.tolist()
    chosen = request.chosen
    return Distribution(
        tuple(describe(token, rank) for rank, token in enumerate(top, start=1)),
        float(token_entropy(logits[0])),
        None if chosen is None else describe(chosen, int((own > own[chosen]).sum()) + 1),
    )
