from __future__ import annotations

import dataclasses
import re
from collections import Counter

import pytest

from pipeline.config.source import Source
from pipeline.data import read_demonstrations, read_prompts, read_rankings
from pipeline.errors import DataError, SteerlineError
from pipeline.world import World

ASK = {"role": "user", "content": "Name a fruit."}
ANSWER = {"role": "assistant", "content": "An apple."}
SYSTEM = {"role": "system", "content": "Be brief."}
SAME_DEMONSTRATION = [
    {"messages": [ASK, ANSWER]},
    {"prompt": "Name a fruit.", "completion": "An apple."},
    {"messages": [ASK], "completion": "An apple."},
    {"prompt": "a fruit.", "messages": [ASK], "completion": "An apple."},
    {"prompt": [ASK], "completion": [ANSWER]},
    {"prompt": [ASK], "completion": "An apple."},
    {"prompt": "Name a fruit.", "completion": [ASK, ANSWER]},
    {"instruction": "Name a fruit.", "input": "", "output": "An apple."},
    {"instruction": "Name a fruit.", "input": "<noinput>", "output": "An apple."},
    {"instruction": "Name a fruit.", "output": "An apple."},
    {"instruction": "Name a fruit.", "reference": "An apple."},
]


@pytest.mark.parametrize("row", SAME_DEMONSTRATION)
def test_every_layout_of_a_demonstration_reads_the_same(write_rows, row):
    (shown,) = read_demonstrations([write_rows(row)], 0)
    assert shown.messages == [ASK, ANSWER]


@pytest.mark.parametrize("row", SAME_DEMONSTRATION)
def test_a_prompt_is_its_demonstrations_without_the_answer(write_rows, row):
    source = write_rows(row)
    (prompt,) = read_prompts([source], 0)
    (shown,) = read_demonstrations([source], 0)
    assert prompt == shown.prompt
    assert "An apple." not in str(prompt)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK], "completions": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "Name a fruit.", "chosen": "a", "rejected": "b"},
        {"messages": [ASK]},
        {"prompt": "Name a fruit."},
    ],
)
def test_prompts_are_read_from_rows_without_a_demonstration(write_rows, row):
    (prompt,) = read_prompts([write_rows(row)], 0)
    assert prompt.messages == (ASK,)
    assert prompt.meta == {}


def test_the_input_stands_below_the_instruction(write_rows):
    row = {"instruction": "Sum.", "input": "1 + 1", "output": "2"}
    source = write_rows(row, {"prompt": "Sum.", "input": "1 + 1", "completion": "2"})
    first, second = read_demonstrations([source], 0)
    assert first == second
    assert first.prompt.messages[0]["content"] == "Sum.\n\n1 + 1"


def test_a_question_stands_below_its_passage_and_the_first_answer_completes_it(write_rows):
    row = {"passage": "Ann ate.", "question": "Who ate?", "answers": ["Ann", "ann"], "skill": "who"}
    source = write_rows(row, format="qa")
    (shown,) = read_demonstrations([source], 0)
    assert shown.prompt.messages[0]["content"] == "Ann ate.\n\nQuestion: Who ate?"
    assert shown.completion == "Ann"
    assert shown.prompt.meta == {"answers": ["Ann", "ann"], "skill": "who"}
    assert read_prompts([source], 0) == [shown.prompt]


def test_conversations_keep_a_system_turn_and_two_turns_of_one_speaker(write_rows):
    turns = [SYSTEM, ASK, ANSWER, ANSWER, ASK, ANSWER]
    (shown,) = read_demonstrations([write_rows({"messages": turns})], 0)
    assert shown.messages == turns


def test_use_case_and_meta_are_kept_beside_further_plain_fields(write_rows):
    row = {"prompt": "Hi", "use_case": "chat", "meta": {"a": 1}, "id": "x", "deep": {"no": 1}}
    (prompt,) = read_prompts([write_rows(row)], 0)
    assert prompt.use_case == "chat"
    assert prompt.meta == {"a": 1, "id": "x"}


def test_null_fields_count_as_absent(write_rows):
    row = {"messages": None, "prompt": "Hi", "input": None, "completion": "Ho"}
    (shown,) = read_demonstrations([write_rows(row)], 0)
    assert shown.completion == "Ho"


def test_sources_are_read_one_after_another(write_rows):
    one = write_rows({"prompt": "a", "completion": "A"}, name="one.jsonl")
    two = write_rows({"instruction": "b", "output": "B"}, name="two.jsonl", format="alpaca")
    assert [shown.completion for shown in read_demonstrations([two, one, two], 0)] == list("BAB")


def test_equal_prompts_are_read_once_and_counted(write_rows, caplog):
    one = write_rows({"prompt": "a"}, {"prompt": "b"}, {"prompt": "a", "id": 7}, name="one.jsonl")
    two = write_rows({"messages": [{"role": "user", "content": "b"}]}, name="two.jsonl")
    dropped: Counter[str] = Counter()
    prompts = read_prompts([one, two], 0, dropped=dropped)
    assert [prompt.messages[0]["content"] for prompt in prompts] == ["a", "b"]
    assert dropped == {
        f"{one.path}: duplicate prompts": 1,
        f"{two.path}: duplicate prompts": 1,
    }
    first, second = (prompt.id for prompt in prompts)
    assert [record.getMessage() for record in caplog.records] == [
        f"{one.path}: left out duplicate prompts: 1, the first {first} ('a'...)",
        f"{two.path}: left out duplicate prompts: 1, the first {second} ('b'...)",
    ]


def test_duplicates_do_not_use_up_the_limit(write_rows):
    rows = [{"prompt": str(number % 10)} for number in range(100)]
    assert len(read_prompts([write_rows(*rows, limit=10)], 0)) == 10


def test_records_that_are_too_long_are_left_out_before_the_limit_draws(write_rows):
    rows = [{"prompt": "x" * size, "completion": "y" * 3} for size in range(1, 21)]
    source = write_rows(*rows, max_characters=8, limit=4)
    assert all(len(shown.completion) == 3 for shown in read_demonstrations([source], 0))
    kept = [len(prompt.messages[0]["content"]) for prompt in read_prompts([source], 0)]
    assert len(kept) == 4
    assert max(kept) <= 8
    whole = dataclasses.replace(source, limit=None)
    # A demonstration counts with its answer, a prompt alone.
    assert len(read_demonstrations([whole], 0)) == 5
    assert len(read_prompts([whole], 0)) == 8
    ranked = [{"prompt": "ab", "chosen": "c" * size, "rejected": "d"} for size in (3, 4, 5)]
    assert len(read_rankings([write_rows(*ranked, name="pairs.jsonl", max_characters=6)], 0)) == 2
    with pytest.raises(DataError, match=r"at most max_characters \(3\), got none among 20"):
        read_demonstrations([dataclasses.replace(source, max_characters=3)], 0)
    (problem,) = Source("tiny:demonstrations", max_characters=9).problems()
    assert problem.rule == "be null for the tiny world"


PAIR = {"prompt": "Hi", "completion": "Ho"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi", "completion": ""}, "'completion' is empty"),
        ({"prompt": "Hi", "completion": " \n\t"}, "'completion' is empty"),
        ({"prompt": "Hi", "completion": "​"}, "'completion' is empty"),
        ({"prompt": "", "completion": "Ho"}, "'prompt' is empty"),
        ({"prompt": "Hi", "completion": "\x00a"}, "'completion' holds a NUL character"),
        ({"prompt": "Hi", "completion": 3}, "'completion' must be a list of messages, got 3"),
        ({"prompt": 3, "completion": "Ho"}, "'prompt' must be a list of messages, got 3"),
        ({"instruction": " ", "output": "Ho"}, "'instruction' is empty"),
        ({"instruction": "Hi", "output": ""}, "'output' is empty"),
        ({"instruction": "Hi", "output": ["Ho"]}, "'output' must be a string, got list"),
        ({"instruction": "Hi", "input": 3, "output": "Ho"}, "'input' must be a string, got int"),
        ({"passage": "P", "question": "Q", "answers": []}, "'answers' must be a list of strings"),
        ({"passage": "P", "question": "Q", "answers": [""]}, "'answers[1]' is empty"),
        ({"passage": "P", "question": "", "answers": ["A"]}, "'question' is empty"),
        ({"messages": []}, "'messages' must be a list of messages"),
        ({"messages": [ASK]}, "'messages' must end with a turn of role 'assistant', got 'user'"),
        ({"messages": [ANSWER]}, "'messages' must have a user's turn before the last"),
        ({"messages": [SYSTEM, ANSWER]}, "'messages' must have a user's turn before the last"),
        ({"messages": [ASK, SYSTEM, ANSWER]}, "'messages[2]' must not be a system turn"),
        (
            {"messages": [{"role": "human", "content": "Hi"}, ANSWER]},
            "'messages[1].role' must be one of system, user, assistant, got 'human'",
        ),
        ({"messages": [{"from": "human"}, ANSWER]}, "'messages[1]' must have 'role' and 'content'"),
        (
            {"messages": [ASK, {"role": "assistant", "content": ""}]},
            "'messages[2].content' is empty",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": [1]}]},
            "'messages[2].content' must be a string, got list",
        ),
        ({"prompt": [ASK, ANSWER], "completion": "Ho"}, "'prompt' must end with a turn of role"),
        ({"prompt": "Hi", "completion": [ASK, ANSWER]}, "'completion' must be one assistant turn"),
        ({"prompt": "Hi", "completion": "Ho", "meta": 3}, "'meta' must be an object, got int"),
        ({"question": "Hi", "answer": "Ho"}, "got question, answer. Rename the keys"),
        ({}, "keys of demonstrations must be messages; or prompt, completion; or instruction"),
    ],
)
def test_a_faulty_demonstration_is_refused_with_file_and_line(write_rows, row, message):
    source = write_rows(PAIR, row)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_demonstrations([source], 0)
    assert str(error.value).startswith(f"{source.path}:2: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "  "}, "'prompt' is empty"),
        ({"prompt": [ASK, ANSWER]}, "'prompt' must end with a turn of role 'user'"),
        ({"messages": [ANSWER]}, "'messages' must be a list of messages, got []"),
        ({"text": "Hi"}, "keys of prompts must be messages; or prompt; or instruction"),
    ],
)
def test_a_faulty_prompt_is_refused_with_file_and_line(write_rows, row, message):
    source = write_rows(row)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_prompts([source], 0)
    assert str(error.value).startswith(f"{source.path}:1: ")


def test_empty_texts_are_left_out_and_counted_where_the_caller_says_so(write_rows, caplog):
    source = write_rows(PAIR, {"prompt": "Hi", "completion": ""}, {"prompt": "", "completion": "x"})
    dropped: Counter[str] = Counter()
    assert len(read_demonstrations([source], 0, drop_empty=True, dropped=dropped)) == 1
    assert dropped == {f"{source.path}: rows with an empty text": 2}
    assert f"{source.path}: left out rows with an empty text: 2" in caplog.text


def test_other_faults_are_never_left_out(write_rows):
    with pytest.raises(DataError, match="must have 'role'"):
        read_demonstrations([write_rows({"messages": [3]})], 0, drop_empty=True)


@pytest.mark.parametrize("name", ["text", "pandalm", "oasst"])
def test_a_format_that_holds_no_demonstrations_is_refused(write_rows, name):
    with pytest.raises(DataError, match=f"got '{name}'. Use auto, alpaca, qa."):
        read_demonstrations([write_rows(PAIR, format=name)], 0)


def test_a_format_takes_only_its_own_keys(write_rows):
    with pytest.raises(DataError, match=r"must be instruction, output\|reference; got prompt"):
        read_demonstrations([write_rows(PAIR, format="alpaca")], 0)


def test_tiny_demonstrations_and_prompts_are_the_worlds():
    shown = read_demonstrations([Source("tiny:demonstrations", limit=12)], 3)
    prompts = read_prompts([Source("tiny:prompts", split="test", limit=12)], 3)
    assert shown == World(3).demonstrations("train", 12)
    assert prompts == World(3).prompts("test", 12)
    assert len(read_prompts([Source("tiny:prompts", split="validation")], 3)) == 200


@pytest.mark.parametrize("read", [read_demonstrations, read_prompts])
def test_an_unknown_tiny_name_gets_the_nearest(read):
    with pytest.raises(DataError, match=r"got 'promts'|got 'demonstration'") as error:
        read([Source("tiny:promts" if read is read_prompts else "tiny:demonstration")], 0)
    assert "Did you mean" in str(error.value)


@pytest.mark.parametrize("read", [read_demonstrations, read_prompts])
def test_the_label_store_is_the_stages_to_read(read):
    with pytest.raises(SteerlineError, match=r"store: must be listed under reward\.data"):
        read([Source("store:")], 0)
