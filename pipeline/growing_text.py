"""Turn an answer's tokens into text as they come."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from pipeline.formatting import Formatter

NEIGHBOURS = 4
"""Tokens before another that decide how it is spelled: a space, bytes of one character."""
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
UNFINISHED = "\ufffd"
"""What a tokenizer makes of the first bytes of a character."""


class GrowingText:
    """Tell what each token adds to a text; a character of several tokens comes with its last.

    Args:
        formatter: of the tokenizer.

    Attributes:
        ids: the tokens so far.
    """

    def __init__(self, formatter: Formatter) -> None:
        self.ids: list[int] = []
        self._formatter = formatter
        # Only the last tokens are decoded anew: those of the last piece, and those after them.
        self._start = self._shown = 0

    def add(self, token: int, *, last: bool) -> str:
        """Add a token and return the text that it adds; ``last`` keeps nothing back."""
        self.ids.append(token)
        before = self._formatter.decode(self.ids[self._start : self._shown])
        now = self._formatter.decode(self.ids[self._start :])
        if not last and (now.endswith(UNFINISHED) or self._is_byte(token)):
            return ""
        piece = now[len(before) :]
        if piece:
            self._start, self._shown = self._shown, len(self.ids)
        return piece

    def _is_byte(self, token: int) -> bool:
        """Tell whether a token is a single byte of a vocabulary that spells rare characters so.

        A row of them is characters or none: what comes next may change what they all mean.
        """
        name: str | None = self._formatter.tokenizer.convert_ids_to_tokens(token)
        # A vocabulary may be padded: some ids are no token at all.
        return name is not None and BYTE_TOKEN.fullmatch(name) is not None


def spell(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], token: int) -> str:
    """Return what a token adds after others, a special one's name included."""
    near = list(before[-NEIGHBOURS:])
    start: str = tokenizer.decode(near) if near else ""
    whole: str = tokenizer.decode([*near, token])
    if whole.startswith(start) and len(whole) > len(start):
        return whole[len(start) :]
    alone: str = tokenizer.decode([token])
    return alone
