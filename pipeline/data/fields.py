"""Read texts and conversations out of a row's fields, and say which field is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.data.rows import Row
from pipeline.errors import DataError
from pipeline.records import ROLES, Message, Prompt
from pipeline.store.values import reason_to_refuse

# What Alpaca's and Self-Instruct's generated sets write for an empty input.
NO_INPUT = "<noinput>"
# Fields of questions, answers and judgments. What else a row has is kept as its prompt's ``meta``.
QUESTION_FIELDS = {"messages", "prompt", "input", "instruction", "passage", "question", "use_case"}
ANSWER_FIELDS = {"completion", "completions", "output", "reference", "chosen", "rejected"}
PAIR_FIELDS = {"completion_a", "completion_b", "model_a", "model_b", "votes"}
JUDGMENT_FIELDS = {"ranks", "ratings", "flags", "comment", "labeler", "group", "simulated", "split"}
STORE_FIELDS = {"active_seconds", "presented", "overlap", "revision", "key", "created", "meta"}
APP_FIELDS = {"held_out_overlap", "prompt_flags", "none_acceptable", "instructions", "interface"}
KNOWN_FIELDS = frozenset(
    QUESTION_FIELDS | ANSWER_FIELDS | PAIR_FIELDS | JUDGMENT_FIELDS | STORE_FIELDS | APP_FIELDS
)


class EmptyTextError(DataError):
    """Report a text without a visible character: the one fault that a reader may leave out."""


def read_text(row: Row, key: str) -> str:
    """Return a field that must be text one can see.

    Raises:
        DataError: if it is no string, or holds what no tokenizer or database takes.
        EmptyTextError: if there is nothing in it to see.
    """
    value = row.values[key]
    if not isinstance(value, str):
        raise row.fault(f"'{key}' must be a string, got {type(value).__name__}. Mend the line.")
    return check_text(row, key, value)


def check_text(row: Row, key: str, text: str) -> str:
    """Return the text, refused as ``read_text`` says."""
    reason = reason_to_refuse(text)
    if reason is not None:
        kind = EmptyTextError if reason == "is empty" else DataError
        raise kind(str(row.fault(f"'{key}' {reason}. Mend or remove the line.")))
    return text


def read_messages(row: Row, key: str, last: str) -> tuple[Message, ...]:
    """Return the conversation in a field, checked as ``check_messages`` says."""
    return check_messages(row, key, row.values[key], last)


def check_messages(row: Row, key: str, turns: object, last: str) -> tuple[Message, ...]:
    """Return a conversation whose last turn is ``last``'s; a system turn may only come first.

    Roles need not alternate: real conversations have two turns of one speaker in a row.

    Raises:
        DataError: naming the turn, counted from 1.
        EmptyTextError: if a turn is empty.
    """
    if not isinstance(turns, list) or not turns:
        raise row.fault(f"'{key}' must be a list of messages, got {turns!r:.40}. Mend the line.")
    messages = tuple(_read_turn(row, f"{key}[{n}]", turn) for n, turn in enumerate(turns, start=1))
    for number, message in enumerate(messages[1:], start=2):
        if message["role"] == "system":
            raise row.fault(f"'{key}[{number}]' must not be a system turn. Put it first.")
    if messages[-1]["role"] != last:
        raise row.fault(
            f"'{key}' must end with a turn of role '{last}', got '{messages[-1]['role']}'. "
            "Mend the line."
        )
    return messages


def _read_turn(row: Row, key: str, turn: object) -> Message:
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        raise row.fault(f"'{key}' must have 'role' and 'content', got {turn!r:.40}. Mend the line.")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise row.fault(f"'{key}.role' must be one of {', '.join(ROLES)}, got {role!r}. Change it.")
    if not isinstance(content, str):
        kind = type(content).__name__
        raise row.fault(f"'{key}.content' must be a string, got {kind}. Mend the line.")
    return {"role": role, "content": check_text(row, f"{key}.content", content)}


def read_prompt(row: Row) -> Prompt:
    """Return the row's ``prompt``, a string or messages, with ``input`` added as Alpaca has it."""
    if isinstance(row.values["prompt"], str):
        return _ask(row, join_input(row, "prompt"))
    return make_prompt(row, read_messages(row, "prompt", "user"))


def read_instruction(row: Row) -> Prompt:
    """Return Alpaca's ``instruction`` and ``input`` as one user turn, a blank line between them."""
    return _ask(row, join_input(row, "instruction"))


def read_question(row: Row) -> Prompt:
    """Return a question below its passage as one user turn."""
    text = f"{read_text(row, 'passage')}\n\nQuestion: {read_text(row, 'question')}"
    return _ask(row, text)


def join_input(row: Row, key: str) -> str:
    """Return the field, and ``input`` after a blank line where the row has one."""
    instruction, given = read_text(row, key), row.values.get("input", "")
    if not isinstance(given, str):
        raise row.fault(f"'input' must be a string, got {type(given).__name__}. Mend the line.")
    if not given.strip() or given.strip().lower() == NO_INPUT:
        return instruction
    return f"{instruction}\n\n{check_text(row, 'input', given)}"


def make_prompt(row: Row, messages: Iterable[Message]) -> Prompt:
    """Make a prompt whose ``meta`` is the row's own, and the plain fields that no reader knows."""
    own = row.values.get("meta", {})
    if not isinstance(own, dict):
        raise row.fault(f"'meta' must be an object, got {type(own).__name__}. Mend the line.")
    kept = {
        key: value
        for key, value in row.values.items()
        if key not in KNOWN_FIELDS and _is_plain(value)
    }
    use_case = row.values.get("use_case")
    return Prompt(tuple(messages), None if use_case is None else str(use_case), {**kept, **own})


def _ask(row: Row, text: str) -> Prompt:
    return make_prompt(row, ({"role": "user", "content": text},))


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str | int | float) for item in value)
    return isinstance(value, str | int | float)


def read_completion(row: Row, key: str) -> tuple[tuple[Message, ...], str]:
    """Return what stands before a completion in its own field, and the completion.

    A string has nothing before it; messages may hold the whole conversation (TRL's implicit
    prompt).
    """
    if isinstance(row.values[key], str):
        return (), read_text(row, key)
    *before, last = read_messages(row, key, "assistant")
    return tuple(before), last["content"]
