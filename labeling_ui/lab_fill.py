"""Say what the lab's tabs share: how one is filled when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr


@dataclass(frozen=True)
class Fill:
    """What a tab shows when it is opened: work in the lead's name, and its components."""

    work: Callable[..., Any]
    outputs: Sequence[Any]
    inputs: Sequence[Any] = ()


def choices(found: Sequence[tuple[str, Any]], value: Any = None) -> Any:
    """Return an update of a dropdown: what there is to choose, and what is chosen."""
    return gr.update(choices=list(found), value=value)
