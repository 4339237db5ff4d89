"""Show tasks as a numbered list and ask for the next, and read what a model writes strictly.

    Task 1:
    Instruction: Name the capital of the country.
    Input: France
    Output: Paris

A task without an input has ``<noinput>`` there, as in Alpaca.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.data.fields import NO_INPUT
from pipeline.records import Prompt

REQUEST = (
    "Below is a list of tasks. Each has an instruction, an input and an output; the input is "
    f"{NO_INPUT} where the instruction needs none. Continue the list with new tasks in the same "
    "form. Make them different from those above, and give each a correct output."
)
# A label stands at the start of a line; a tuned model may put Markdown's marks around it.
TASK_START = re.compile(
    r"^[ \t#*]*(?:Task[ \t]*\d+[\s:.)*#]*)?Instructions?[ \t]*\**:\**", re.MULTILINE
)
FIELD_START = re.compile(r"^[ \t#*]*(Input|Output)s?[ \t]*\**:\**", re.MULTILINE)
SEPARATOR = re.compile(r"[\s#*=_-]*(?:Task[ \t]*\d+[\s:.)*#]*)?")


class Task(NamedTuple):
    """An instruction, the input it is applied to (may be empty), and the output asked for."""

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> Prompt:
        """Join instruction and input as the reader of Alpaca's fields does."""
        return Prompt.from_text("\n\n".join(part for part in self[:2] if part))

    @classmethod
    def from_prompt(cls, text: str, output: str) -> Task:
        """Take a prompt apart at its first blank line."""
        instruction, _, given = text.partition("\n\n")
        return cls(instruction, given, output)


def compose_request(tasks: Sequence[Task]) -> Prompt:
    """Show tasks and ask for the next, in one user's turn."""
    shown = [
        f"Task {number}:\nInstruction: {' '.join(task.instruction.split())}\n"
        f"Input: {task.input or NO_INPUT}\nOutput: {task.output}"
        for number, task in enumerate(tasks, start=1)
    ]
    # In words: a small tuned model takes a list that ends at "Task 5:" for the task to do.
    following = f"Now write Task {len(tasks) + 1} and those after it."
    return Prompt.from_text("\n\n".join([REQUEST, *shown, following]))


def parse_tasks(text: str, *, cut: bool) -> list[Task | Literal["cut", "malformed"]]:
    """Read the tasks that a model wrote, each as itself or as why it is none.

    A task has an instruction, at most one input, and an output, in this order. It ends where the
    next instruction begins; what stands before the first is left out.

    Args:
        text: what a model wrote after ``compose_request``.
        cut: the text ends at the limit of tokens, so its last task is not whole.
    """
    _, *blocks = TASK_START.split(text)
    tasks = [_parse_block(block) for block in blocks or [""]]
    return [*tasks[:-1], "cut"] if cut else tasks


def _parse_block(block: str) -> Task | Literal["cut", "malformed"]:
    parts = FIELD_START.split(block)
    labels, texts = parts[1::2], [_strip(part) for part in parts[::2]]
    if labels not in (["Input", "Output"], ["Output"]):
        return "malformed"
    instruction, *between, output = texts
    given = between[0] if between else ""
    without = given.casefold() in ("", NO_INPUT)
    return Task(" ".join(instruction.split()), "" if without else given, output)


def _strip(text: str) -> str:
    """Remove white space, and below it rules and a heading of a task that was not begun."""
    lines = text.strip().split("\n")
    while len(lines) > 1 and SEPARATOR.fullmatch(lines[-1]):
        lines.pop()
    return "\n".join(lines).strip()
