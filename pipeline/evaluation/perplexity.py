"""Measure how well a model predicts held-out text.

    perplexity    = exp( sum of -log p(token) / number of predicted tokens )
    bits per byte = sum of -log p(token) / (log 2 * bytes of UTF-8 text)

Perplexity depends on the tokenizer, bits per byte does not, so that models of different tokenizers
compare by the latter. A document is encoded as in pretraining: a begin token where the tokenizer
has one, the text, an end token, which is predicted too.

Departures from a sliding-window evaluation:
1. A document longer than the context is cut into windows that share one token, so that every token
   but the document's first is predicted exactly once, and the first of a window with little before
   it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from pipeline.errors import DataError
from pipeline.formatting import Formatter

# Logits of one forward pass are bounded to about this many numbers: 1 GB in float32.
LOGITS_A_PASS = 2**28


@dataclass(frozen=True)
class DocumentLoss:
    """What one document costs.

    Attributes:
        nll: sum of -log p(token), nats.
        tokens: how many tokens were predicted.
        bytes: length of the text in UTF-8.
    """

    nll: float
    tokens: int
    bytes: int

    def to_row(self) -> dict[str, float | int]:
        """Return the figures by name."""
        return asdict(self)


def measure_documents(
    model: Any,
    formatter: Formatter,
    texts: Sequence[str],
    batch_size: int,
    label: str = "perplexity",
) -> list[DocumentLoss]:
    """Measure the loss of each document.

    Args:
        model: a causal language model; its ``max_position_embeddings`` is the longest window.
        formatter: of the model's tokenizer.
        texts: held-out documents.
        batch_size: windows a forward pass; changes nothing but speed.
        label: what the progress bar says.
    """
    context = int(model.config.max_position_embeddings)
    encoded = [formatter.document_ids(text) for text in texts]
    windows = [
        (document, window)
        for document, ids in enumerate(encoded)
        for window in cut_windows(ids, context)
    ]
    losses = [0.0] * len(texts)
    counts = [0] * len(texts)
    # Windows of like length go together; the longest first, so that memory fails at once or never.
    windows.sort(key=lambda item: -len(item[1]))
    batches = list(_batches(windows, batch_size, int(model.config.vocab_size)))
    for batch in tqdm(batches, desc=label, unit="batch", leave=False, disable=None):
        sums = sum_losses(model, [window for _, window in batch], formatter.pad_id)
        for (document, window), loss in zip(batch, sums.tolist(), strict=True):
            losses[document] += loss
            counts[document] += len(window) - 1
    return [
        DocumentLoss(loss, count, len(text.encode()))
        for loss, count, text in zip(losses, counts, texts, strict=True)
    ]


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
def sum_losses(model: Any, windows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Sum -log p over each window's tokens but the first.

    Args:
        model: a causal language model.
        windows: token ids.
        pad_id: fills shorter rows; it is masked.
    Returns:
        Sums in double precision, [windows].
    """
    rows = [torch.tensor(window, dtype=torch.long) for window in windows]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    real = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids, real = ids.to(model.device), real.to(model.device)
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1]
    targets = ids[:, 1:]
    chosen = logits.gather(-1, targets[..., None]).squeeze(-1).double()
    losses = logits.logsumexp(dim=-1).double() - chosen
    total: Tensor = losses.masked_fill(real[:, 1:] == 0, 0.0).sum(dim=1)
    return total


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
