"""Measure how well a model predicts held-out text.

    perplexity    = exp( sum of -log p(token) / number of predicted tokens )
    bits per byte = sum of -log p(token) / (log 2 * bytes of UTF-8 text)

Perplexity depends on the tokenizer, bits per byte does not, so that models of different tokenizers
compare by the latter. A document is encoded as in pretraining: a begin token where the tokenizer
has one, the text, an end token, which is predicted too.

How sure the model is of each next token, and how often that token comes, is counted in the same
pass: the calibration of its language, where that of few-shot answers is the calibration of choices.

Departures from a sliding-window evaluation:
1. A document longer than the context is cut into windows that share one token, so that every token
   but the document's first is predicted exactly once, and the first of a window with little before
   it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerBase

from pipeline.calibration import BinnedConfidence, error_of
from pipeline.errors import DataError
from pipeline.formatting import encode_document

# Logits of one forward pass are bounded to about this many numbers: 1 GB in float32.
LOGITS_A_PASS = 2**28
WINDOW = 2048
"""Tokens of a window where the model sets no limit."""


@dataclass(frozen=True)
class DocumentLoss:
    """What one document costs.

    Attributes:
        nll: sum of -log p(token), nats.
        tokens: how many tokens were predicted.
        bytes: length of the text in UTF-8.
        confidence: sum over them of the likeliest token's probability.
        correct: how often the likeliest token is the one that comes.
    """

    nll: float
    tokens: int
    bytes: int
    confidence: float
    correct: int

    def to_row(self) -> dict[str, float | int]:
        """Return the figures by name."""
        return asdict(self)


class MeasuredTexts(NamedTuple):
    """What the documents cost, one by one, and how sure the model is of their tokens."""

    documents: list[DocumentLoss]
    confidences: BinnedConfidence


class _Predicted(NamedTuple):
    """What a batch of windows says of every token but the first, all [windows, time].

    Attributes:
        nll: -log p of the token that comes, nats.
        confidence: probability of the likeliest token.
        correct: it is the one that comes.
        real: False at padding.
    """

    nll: Tensor
    confidence: Tensor
    correct: Tensor
    real: Tensor


def measure_documents(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int,
    label: str = "perplexity",
) -> MeasuredTexts:
    """Measure the loss of each document, and how sure the model is of each token.

    Args:
        model: a causal language model; its ``max_position_embeddings``, where it has one, is the
            longest window.
        tokenizer: the model's.
        texts: held-out documents.
        batch_size: windows a forward pass; changes nothing but speed.
        label: what the progress bar says.
    """
    context = int(getattr(model.config, "max_position_embeddings", None) or WINDOW)
    encoded = [encode_document(tokenizer, text) for text in texts]
    windows = [
        (document, window)
        for document, ids in enumerate(encoded)
        for window in cut_windows(ids, context)
    ]
    sums = torch.zeros(len(texts), 2, dtype=torch.float64)
    counts = torch.zeros(len(texts), 2, dtype=torch.long)
    confidences = BinnedConfidence()
    # Windows of like length go together; the longest first, so that memory fails at once or never.
    windows.sort(key=lambda item: -len(item[1]))
    batches = list(_batches(windows, batch_size, int(model.config.vocab_size)))
    for batch in tqdm(batches, desc=label, unit="batch", leave=False, disable=None):
        found = _read_window_batch(model, [window for _, window in batch])
        own = torch.tensor([document for document, _ in batch])
        for place, values in enumerate((found.nll, found.confidence)):
            sums[:, place].index_add_(0, own, values.masked_fill(~found.real, 0.0).sum(1).cpu())
        for place, flags in enumerate((found.real, found.correct & found.real)):
            counts[:, place].index_add_(0, own, flags.sum(1).cpu())
        confidences.add(
            found.confidence[found.real].cpu().numpy(), found.correct[found.real].cpu().numpy()
        )
    documents = [
        DocumentLoss(nll, tokens, len(text.encode()), confidence, correct)
        for (nll, confidence), (tokens, correct), text in zip(
            sums.tolist(), counts.tolist(), texts, strict=True
        )
    ]
    return MeasuredTexts(documents, confidences)


def cut_windows(ids: Sequence[int], context: int) -> list[list[int]]:
    """Cut a document into windows of at most ``context`` tokens, neighbours sharing one."""
    starts = range(0, max(len(ids) - 1, 1), context - 1)
    return [list(ids[start : start + context]) for start in starts]


def _batches(
    windows: Sequence[tuple[int, list[int]]], batch_size: int, vocabulary: int
) -> Iterator[list[tuple[int, list[int]]]]:
    start = 0
    while start < len(windows):
        longest = len(windows[start][1])
        size = max(1, min(batch_size, LOGITS_A_PASS // (longest * vocabulary)))
        yield list(windows[start : start + size])
        start += size


@torch.no_grad()
def _read_window_batch(model: Any, windows: Sequence[Sequence[int]]) -> _Predicted:
    """Predict each window's tokens but the first.

    Args:
        model: a causal language model.
        windows: token ids.
    """
    rows = [torch.tensor(window, dtype=torch.long) for window in windows]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    real = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids, real = ids.to(model.device), real.to(model.device)
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1]
    if logits.dtype in (torch.bfloat16, torch.float16):
        # Sums over a vocabulary need more than eight bits.
        logits = logits.float()
    targets = ids[:, 1:]
    chosen = logits.gather(-1, targets[..., None]).squeeze(-1).double()
    best, place = logits.max(dim=-1)
    total = logits.logsumexp(dim=-1).double()
    # A probability of 1 can come out a rounding above it.
    confidence = (best.double() - total).exp().clamp(max=1.0)
    return _Predicted(total - chosen, confidence, place == targets, real[:, 1:].bool())


def summarize_losses(documents: Sequence[DocumentLoss]) -> dict[str, float]:
    """Return ``perplexity`` and ``bits_per_byte`` over all documents together.

    Raises:
        DataError: if there is no token to predict.
    """
    nll = sum(document.nll for document in documents)
    tokens = sum(document.tokens for document in documents)
    size = sum(document.bytes for document in documents)
    if not tokens or not size:
        raise DataError("evaluate.perplexity must hold text to predict, got none. Add documents.")
    return {"perplexity": math.exp(nll / tokens), "bits_per_byte": nll / (math.log(2) * size)}


def summarize_confidence(
    documents: Sequence[DocumentLoss], confidences: BinnedConfidence, bins: int
) -> dict[str, Any]:
    """Return the next token's calibration over all documents together.

    Returns:
        ``token_accuracy``: how often the likeliest token comes; ``token_overconfidence``: how much
        surer the model is than that; ``token_ece``: expected calibration error;
        ``token_reliability``: the reliability diagram's points, ``{confidence, accuracy, n}`` each.
    """
    tokens = sum(document.tokens for document in documents)
    accuracy = sum(document.correct for document in documents) / tokens
    confidence = sum(document.confidence for document in documents) / tokens
    points = confidences.reliability(bins)
    return {
        "token_accuracy": accuracy,
        "token_overconfidence": confidence - accuracy,
        "token_ece": error_of(points),
        "token_reliability": [point._asdict() for point in points],
    }
