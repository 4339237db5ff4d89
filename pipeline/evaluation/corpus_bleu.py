"""Count what a document adds to the BLEU of a corpus, so that stages can be compared by it.

lm_eval keeps a document's reference and text, and asks sacrebleu for one figure of all. That figure
is made of sums over documents; with each document's own part of them it can be resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sacrebleu

BLEU = "bleu"
"""lm_eval's name of the measure."""


def count_matches(references: str | Sequence[str], text: str | Sequence[str]) -> dict[str, Any]:
    """Return what a document adds to each sum, counted by sacrebleu as lm_eval has it count.

    Args:
        references: what would be right; several texts where any of them would.
        text: what was written; lm_eval may give it alone in a list.

    Returns:
        ``matches`` and ``totals``: runs of one to four words that a reference has too, and all of
        them; ``words`` and ``reference_words``: lengths, the reference's the nearest.
    """
    written = text if isinstance(text, str) else text[0]
    right = [references] if isinstance(references, str) else references
    counted = sacrebleu.BLEU().corpus_score([written], [[reference] for reference in right])
    return {
        "matches": list(counted.counts),
        "totals": list(counted.totals),
        "words": counted.sys_len,
        "reference_words": counted.ref_len,
    }
