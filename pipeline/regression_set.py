"""Keep the prompts that somebody found interesting: ``<run_dir>/regression.jsonl``.

The file is one that ``evaluate.prompts`` reads. Each prompt is in it once; it is replaced in one
step under a lock, so that no prompt is lost whoever saves at the same time or is cut.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_text
from pipeline.errors import DataError
from pipeline.records import ROLES, Message, Prompt, read_jsonl
from pipeline.store.values import reason_to_refuse

FILE = "regression.jsonl"


@dataclass(frozen=True)
class RegressionSet:
    """Hold the prompts of one file.

    Attributes:
        path: the file; it need not be there yet.
    """

    path: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> RegressionSet:
        """Return the set of a run."""
        return cls(run_dir / FILE)

    def prompts(self) -> list[Prompt]:
        """Return the prompts in the order in which they were saved.

        Raises:
            DataError: naming the line that is no prompt.
        """
        if not self.path.is_file():
            return []
        return [self._read(number, row) for number, row in read_jsonl(self.path)]

    def add(self, prompt: Prompt) -> bool:
        """Save a prompt, and say whether it is new; it is on disk when this returns.

        Raises:
            DataError: if the prompt has no turn of a user's at its end, a text is empty or one
                that no tokenizer takes, the file holds a line that is no prompt, or it cannot be
                written.
        """
        check_prompt(prompt.messages)
        try:
            with self._locked():
                return self._add(prompt)
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written ({error.strerror}). Make room, and save again."
            ) from error

    def _add(self, prompt: Prompt) -> bool:
        if prompt.id in {saved.id for saved in self.prompts()}:
            return False
        before = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        if before and not before.endswith("\n"):
            before += "\n"
        write_text(self.path, before + _line(prompt))
        return True

    def _read(self, number: int, row: dict[str, Any]) -> Prompt:
        messages = row.get("messages")
        if isinstance(row.get("prompt"), str) and messages is None:
            messages = [{"role": "user", "content": row["prompt"]}]
        turns = read_turns(messages)
        if turns is None:
            what = "'messages' must be turns that end with a user's. Mend or remove the line."
            raise DataError.at(self.path, number, what)
        use_case = row.get("use_case")
        return Prompt(turns, None if use_case is None else str(use_case))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def check_prompt(messages: tuple[Message, ...]) -> None:
    """Refuse what is no prompt.

    Raises:
        DataError: if it does not end with a user's turn, has a system turn elsewhere than first, or
            a text that is empty or that no tokenizer takes.
    """
    if not messages or messages[-1]["role"] != "user":
        raise DataError("The prompt must end with a turn of the user's. Write one.")
    for number, turn in enumerate(messages, start=1):
        if turn["role"] == "system" and number > 1:
            raise DataError(f"Turn {number} must not be the system's. Put it first.")
        reason = reason_to_refuse(turn["content"])
        if reason is not None:
            raise DataError(f"Turn {number} of the prompt {reason}. Write another text.")


def read_turns(value: object) -> tuple[Message, ...] | None:
    """Return the turns of a prompt that JSON holds, or None where it holds none."""
    turns = value if isinstance(value, list) else []
    if not turns or not all(map(_is_turn, turns)) or turns[-1]["role"] != "user":
        return None
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, dict)
        and turn.get("role") in ROLES
        and isinstance(turn.get("content"), str)
    )


def _line(prompt: Prompt) -> str:
    row: dict[str, Any] = {"messages": list(prompt.messages)}
    if prompt.use_case is not None:
        row["use_case"] = prompt.use_case
    row["saved"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return json.dumps(row, ensure_ascii=False) + "\n"
