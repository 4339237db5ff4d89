from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.data.conversations import read_prompts
from pipeline.errors import DataError
from pipeline.records import Prompt
from pipeline.regression_set import RegressionSet, check_prompt, read_turns

LONG = Prompt(
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello\nthere \u2028 ü"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Go on."},
    ),
    "chat",
)


@pytest.fixture
def saved(tmp_path: Path) -> RegressionSet:
    return RegressionSet.of_run(tmp_path)


def test_a_prompt_is_saved_once(saved: RegressionSet):
    assert saved.prompts() == []
    prompts = [Prompt.from_text("Why?"), LONG, Prompt.from_text("Why? ")]
    assert [saved.add(prompt) for prompt in prompts] == [True] * 3
    assert [saved.add(prompt) for prompt in prompts] == [False] * 3
    assert [prompt.id for prompt in saved.prompts()] == [prompt.id for prompt in prompts]
    assert saved.prompts()[1].use_case == "chat"


def test_the_evaluation_reads_it(saved: RegressionSet):
    saved.add(LONG)
    saved.add(Prompt.from_text("Why?"))
    read = read_prompts([Source(str(saved.path))], seed=0)
    assert [prompt.messages for prompt in read] == [
        LONG.messages,
        ({"role": "user", "content": "Why?"},),
    ]
    assert read[0].use_case == "chat"


def test_lines_by_hand_stay_as_they_are(saved: RegressionSet):
    line = '{"prompt": "By hand", "note": 1}'
    saved.path.write_text(line, encoding="utf-8")
    assert not saved.add(Prompt.from_text("By hand"))
    assert saved.add(Prompt.from_text("Another"))
    first, second = saved.path.read_text(encoding="utf-8").splitlines()
    assert first == line
    assert json.loads(second)["messages"] == [{"role": "user", "content": "Another"}]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"messages": []}',
        '{"messages": "Why?"}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"messages": [{"role": "user"}]}',
    ],
)
def test_a_file_with_a_line_that_is_no_prompt_is_left_alone(line: str, saved: RegressionSet):
    before = '{"prompt": "One"}\n' + line + "\n"
    saved.path.write_text(before, encoding="utf-8")
    with pytest.raises(DataError, match=r"regression\.jsonl:2: "):
        saved.add(Prompt.from_text("Another"))
    assert saved.path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([], "must end with a turn of the user's"),
        ([("assistant", "x")], "must end with a turn of the user's"),
        ([("user", "x"), ("system", "y"), ("user", "z")], "Turn 2 must not be the system's"),
        ([("user", " \n")], "Turn 1 of the prompt is empty"),
        ([("user", "a\0b")], "Turn 1 of the prompt "),
        ([("user", "\ud800")], "Turn 1 of the prompt "),
    ],
)
def test_what_is_no_prompt_is_refused(
    turns: list[tuple[str, str]], told: str, saved: RegressionSet
):
    messages = tuple({"role": role, "content": content} for role, content in turns)
    with pytest.raises(DataError, match=told):
        check_prompt(messages)
    with pytest.raises(DataError, match=told):
        saved.add(Prompt(messages))
    assert not saved.path.exists()


def add_many(folder: str, start: int) -> None:
    for number in range(start, start + 12):
        RegressionSet.of_run(Path(folder)).add(Prompt.from_text(f"Prompt {number}"))


def test_processes_that_save_at_once_lose_and_repeat_nothing(saved: RegressionSet):
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=add_many, args=(str(saved.path.parent), start))
        for start in (0, 6, 12)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    texts = [prompt.messages[0]["content"] for prompt in saved.prompts()]
    assert sorted(texts) == sorted(f"Prompt {number}" for number in range(24))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path):
    with pytest.raises(DataError, match=r"regression\.jsonl cannot be written \(No such file"):
        RegressionSet.of_run(tmp_path / "gone").add(Prompt.from_text("Why?"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        "Why?",
        [],
        ["Why?"],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
    ],
)
def test_what_json_holds_else_is_no_prompt(value: object):
    assert read_turns(value) is None


def test_turns_of_json_lose_what_is_no_turns():
    assert read_turns([{**turn, "id": 7} for turn in LONG.messages]) == LONG.messages
