"""Write numbers and model text for reading: one way for the page, its charts and its sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.report.statistics import Change

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LONGEST = 2_000
# Characters that are not seen but change how a text is shown: controls, direction marks and
# overrides, zero-width spaces, tags, and halves of surrogate pairs. Tab and newline are text.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def digits(value: float | None, places: int | None = None) -> str:
    """Write a number with a true minus sign; as many digits as its size asks for by default."""
    if value is None:
        return MISSING
    size = abs(value)
    if places is None:
        if size != 0 and (size < 0.001 or size >= 1e9):
            return f"{value:.2e}".replace("-", MINUS)
        whole = float(value).is_integer()
        places = 0 if whole or size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, places) + 0:,.{places}f}".replace("-", MINUS).replace(",", "\u202f")


def percent(value: float | None, places: int = 1) -> str:
    """Write a fraction in percent, without the sign: the table's caption names the unit."""
    return digits(None if value is None else 100 * value, places)


def signed(value: float | None, places: int = 1) -> str:
    """Write a difference of fractions in percentage points, always with its sign."""
    if value is None:
        return MISSING
    return signed_digits(100 * value, places)


def signed_digits(value: float, places: int) -> str:
    """Write a difference of plain numbers, always with its sign."""
    text = digits(value, places)
    return text if text.startswith(MINUS) or not text.strip("0.") else f"+{text}"


def plain(value: float | None, places: int = 3) -> str:
    """Write a difference of plain numbers, always with its sign; a dash where there is none."""
    return MISSING if value is None else signed_digits(value, places)


def points(value: float) -> str:
    """Write a difference of fractions in words, for a sentence."""
    return f"{signed(value)} points"


def interval(change: Change, shift: float = 0.0) -> str:
    """Write a change's 95 % interval, in percent."""
    low, high = change.low + shift, change.high + shift
    return f"{signed(low)} to {signed(high)}" if not shift else f"{percent(low)} to {percent(high)}"


def count_shots(shots: int | None) -> str:
    """Write a number of shots; none is the mean over all."""
    return "all shots" if shots is None else "1 shot" if shots == 1 else f"{shots} shots"


def duration(seconds: float | None) -> str:
    """Write a wall time: ``42 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def unbroken(text: str) -> str:
    """Keep a number and its percent sign, and ``p < 0.05``, on one line."""
    return text.replace(" %", "\u00a0%").replace("p < ", "p\u00a0<\u00a0")


def visible(text: str) -> str:
    """Show what a text hides: characters that are not seen, and its length where it is cut.

    A completion can hold direction overrides that make it read as something else, or control
    characters; each is written as its code point.
    """
    cut = len(text) - LONGEST
    shown = _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text[:LONGEST])
    return f"{shown} … [{digits(cut, 0)} more characters]" if cut > 0 else shown


def prompt_text(prompt: Any) -> str:
    """Write a prompt: a single user's turn as its text, a conversation with its roles."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt or [] if isinstance(turn, Mapping)]
    texts = [str(turn.get("content", "")) for turn in turns]
    if len(turns) == 1 and turns[0].get("role") == "user":
        return texts[0]
    return "\n".join(f"{turn.get('role')}: {text}" for turn, text in zip(turns, texts, strict=True))
