from __future__ import annotations

import io
import json
import math

from rich.console import Console

from pipeline.records import Prompt
from pipeline.serving_messages import (
    Candidate,
    Distribution,
    Failed,
    Finished,
    Loading,
    Notice,
    Queued,
    Token,
)
from stages.answer_columns import (
    SHADES,
    Column,
    added_places,
    describe,
    rows_of,
    shade,
    tabulate,
    visible,
    write_plain,
)

PROMPT = Prompt.from_text("What is red?")


def column(name, text, sample=0, probability=0.9, **end):
    """Return a column with one finished answer, a token a word."""
    made = Column(name)
    for word in text.split(" "):
        piece = f" {word}" if made.tokens else word
        made.take(Token(sample, 1, piece, math.log(probability), 1, 0.1))
    defaults = {"finish_reason": "eos", "tokens": 3, "logprob": -1.0}
    made.take(Finished(sample, text, **{**defaults, **end}))
    return made


def render(shown, *, color=True):
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        width=80,
        color_system="truecolor" if color else None,
        legacy_windows=False,
    )
    console.print(shown)
    return out.getvalue()


def test_answers_stand_side_by_side_with_their_figures():
    columns = [
        column("sft", "a red boat", score=0.256, kl=1.5),
        column("ppo", "a blue boat", finish_reason="length", tokens=12),
    ]
    shown = render(tabulate(PROMPT, columns, 1), color=False)
    lines = shown.splitlines()
    assert lines[0].strip() == "What is red?"
    (line,) = [line for line in lines if "a red boat" in line]
    assert line.index("a blue boat") > line.index("a red boat")
    (line,) = [line for line in lines if "score 0.26, 3 tokens, KL 1.50" in line]
    assert line.rstrip().endswith("12 tokens, cut")


def test_improbable_tokens_are_shaded_and_other_words_underlined():
    columns = [column("sft", "a red boat"), column("ppo", "a blue boat", probability=0.1)]
    table = tabulate(PROMPT, columns, 1).renderables[1]
    first, second = (next(iter(one.cells)) for one in table.columns)
    assert {str(span.style) for span in first.spans} == {"dim"}
    styles = {(second.plain[span.start : span.end], str(span.style)) for span in second.spans}
    assert (" blue", SHADES[1][1]) in styles
    assert ("blue", "bold underline") in styles
    assert ("boat", "bold underline") not in styles


def test_what_is_not_finished_shows_what_there_is_and_what_it_waits_for():
    waiting = Column("ppo")
    waiting.take(Queued(2))
    assert "number 2 in line" in render(tabulate(PROMPT, [waiting], 1))
    waiting.take(Loading("runs/ppo/model", 540_000_000))
    assert "loading runs/ppo/model, 0.54 GB" in render(tabulate(PROMPT, [waiting], 1))
    waiting.take(Token(0, 1, "A", -0.1, 1, 0.1))
    waiting.take(Notice("No KL from base."))
    shown = render(tabulate(PROMPT, [waiting], 2))
    assert "loading" not in shown
    assert "No KL from base." in shown


def test_a_stop_string_is_not_shown():
    made = column("sft", "one two STOP", finish_reason="stop")
    made.take(Finished(0, "one two ", "stop", 3, -1.0))
    table = tabulate(PROMPT, [made], 1).renderables[1]
    (cell,) = table.columns[0].cells
    assert cell.plain == "one two \n3 tokens"


def test_a_failure_stands_in_its_column_and_in_words_below():
    columns = [column("sft", "a red boat"), Column("ppo")]
    columns[1].take(Loading("x", 1))
    columns[1].take(Token(0, 1, "half of", -0.1, 1, 0.1))
    columns[1].take(Failed("No model in\x1b x."))
    shown = render(tabulate(PROMPT, columns, 1), color=False)
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[2].split() == ["sft", "ppo", "failed"]
    assert "ppo: No model in␛ x." in lines
    (unfinished,) = [line for line in lines if "unfinished" in line]
    assert "half of" in shown
    assert "3 tokens" in unfinished
    out = io.StringIO()
    write_plain(Console(file=out), PROMPT, columns)
    *_, said, end = out.getvalue().splitlines()
    assert (said, end) == ("--- ppo failed: No model in␛ x.", "")


def test_a_failure_is_a_row_with_an_error_and_the_same_keys():
    columns = [column("sft", "a"), column("ppo", "half")]
    columns[1].take(Failed("No memory."))
    rows = list(rows_of(PROMPT, columns, ["a", "b"], with_next=True))
    assert [(row["model"], row["text"], row["error"]) for row in rows] == [
        *(("sft", "a", None), ("ppo", "half", None), ("ppo", None, "No memory.")),
    ]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert {row["next"] for row in rows} == {None}
    assert "next" not in next(rows_of(PROMPT, columns, ["a", "b"]))


def test_next_tokens_are_in_the_row_of_their_answer():
    made = column("sft", "a")
    made.next[0] = Distribution((Candidate(3, "x", 0.5, 1), Candidate(4, "y", math.nan, 2)), 1.5)
    (row,) = rows_of(PROMPT, [made], ["a"], with_next=True)
    json.loads(json.dumps(row, allow_nan=False))
    first, second = row["next"]["tokens"]
    assert first == {**first, "id": 3, "probability": 0.5, "ref_probability": None}
    assert second["probability"] is None
    assert (row["next"]["entropy"], row["next"]["chosen"]) == (1.5, None)


def test_earlier_turns_stand_before_the_prompt():
    turns = [("system", "Be brief."), ("user", "Hi\x1b"), ("assistant", "Hello."), ("user", "Why?")]
    prompt = Prompt(tuple({"role": role, "content": content} for role, content in turns))
    expected = ["system: Be brief.", "user: Hi␛", "assistant: Hello."]
    out = io.StringIO()
    write_plain(Console(file=out), prompt, [])
    assert out.getvalue().splitlines() == [*expected, "prompt: Why?", ""]
    lines = render(tabulate(prompt, [column("sft", "a")], 1), color=False).splitlines()
    assert [line.strip() for line in lines[:4]] == [*expected, "Why?"]


def test_the_less_likely_a_token_the_more_it_stands_out():
    assert [shade(probability) for probability in (0.01, 0.1, 0.3, 0.5, 1.0)] == [
        *(style for _, style in SHADES),
        "",
        "",
    ]


def test_added_places_are_those_of_the_words_that_the_other_lacks():
    text = "a blue boat!"
    places = added_places("a red boat", text)
    assert [text[start:end] for start, end in places] == ["blue", "!"]


def test_control_characters_are_shown_and_do_nothing():
    hostile = "\x1b[2J\x1b]0;title\x07ok\r\n\ttab\x9b\x7f"
    shown = visible(hostile)
    assert shown == "␛[2J␛]0;title␇ok␍\n\ttab\ufffd\ufffd"
    assert len(shown) == len(hostile)
    columns = [column("sft", hostile)]
    table = render(tabulate(Prompt.from_text(hostile), columns, 1), color=False)
    assert "\x1b" not in table.replace("\x1b[0m", "")
    out = io.StringIO()
    write_plain(Console(file=out), Prompt.from_text(hostile), columns)
    assert "\x1b" not in out.getvalue()


def test_markup_is_text():
    columns = [column("sft", "[red]not[/red]")]
    out = io.StringIO()
    write_plain(Console(file=out), PROMPT, columns)
    assert "[red]not[/red]" in out.getvalue()
    assert "[red]not[/red]" in render(tabulate(PROMPT, columns, 1), color=False)


def test_plain_answers_come_one_after_the_other_unfolded():
    columns = [column("sft", "word " * 60, score=1.0), column("ppo", "short")]
    columns[1].take(Finished(1, "other", "eos", 1, -1.0))
    out = io.StringIO()
    write_plain(Console(file=out, width=40), PROMPT, columns)
    assert out.getvalue().splitlines() == [
        *("prompt: What is red?", ""),
        *("--- sft: score 1.00, 3 tokens", "word " * 60, ""),
        *("--- ppo, answer 1: 3 tokens", "short", ""),
        *("--- ppo, answer 2: 1 tokens", "other", ""),
    ]


def test_rows_hold_all_that_is_known_of_an_answer():
    done = Finished(0, "red", "eos", 1, -0.5, 0.1, 0.2, 0.3)
    made = Column("sft", finished={0: done})
    (row,) = rows_of(PROMPT, [made], ["runs/sft/model"])
    assert row == {
        "prompt_id": PROMPT.id,
        "prompt": [{"role": "user", "content": "What is red?"}],
        **{"model": "sft", "path": "runs/sft/model", "sample": 0, "text": "red"},
        **{"finish_reason": "eos", "tokens": 1, "logprob": -0.5},
        **{"kl": 0.1, "log_ratio": 0.2, "score": 0.3, "error": None},
    }
    assert describe(done) == "score 0.30, 1 tokens, KL 0.10"


def test_a_figure_that_is_no_finite_number_is_null_in_json():
    (row,) = rows_of(PROMPT, [column("sft", "a", log_ratio=math.inf, kl=math.nan)], ["a"])
    assert (row["log_ratio"], row["kl"], row["logprob"]) == (None, None, -1.0)
    json.loads(json.dumps(row, allow_nan=False))
