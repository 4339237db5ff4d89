from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.errors import ModelError
from pipeline.serving_messages import Candidate, Distribution, GenerationRequest, Token
from stages.answer_columns import Column
from stages.next_tokens import Look, look_ahead, tabulate_next, write_next

CAT = Candidate(3, " cat", 0.5, 1, 0.25)
DOG = Candidate(4, "dog\n", 0.125, 2, 0.0)
RARE = Candidate(9, "\x1b", 0.001, 40)
LOOK = Look(2, place=3)


def write(columns, *, table=False, samples=1):
    out = io.StringIO()
    console = Console(file=out, width=80)
    if table:
        console.print(*tabulate_next(columns, samples, LOOK), sep="\n")
    else:
        write_next(console, columns, LOOK)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_tokens_come_one_a_line_with_the_one_taken_marked():
    columns = [Column("sft", next={0: Distribution((CAT, DOG), 1.5, DOG)}), Column("ppo")]
    assert write(columns) == [
        "--- sft, token 3: entropy 1.50 nats",
        '1. " cat" 50.00% (25.00%)',
        r'2. "dog\n" 12.50% (0.00%) *',
        "",
    ]


def test_one_that_was_taken_against_the_odds_stands_last_and_steers_no_terminal():
    column = Column("sft", next={0: Distribution((CAT, DOG), 1.5, RARE)})
    *_, last, end = write([column])
    assert (last, end) == (r'40. "\u001b" 0.10% *', "")


def test_models_stand_side_by_side_and_one_without_has_a_dash():
    columns = [
        Column("sft", next={0: Distribution((CAT, DOG), 1.5, CAT)}),
        Column("ppo", next={0: Distribution((DOG,), 0.25)}),
        Column("mine"),
    ]
    lines = write(columns, table=True)
    (names,) = [line.split() for line in lines if "sft" in line]
    assert names == ["sft", "ppo", "mine"]
    (first,) = [line for line in lines if "1. " in line]
    assert '1. " cat" 50.00%' in first
    assert r'2. "dog\n" 12.50%' in first
    assert first.endswith("-")
    assert "token 3" in lines[0]
    assert [line.count("entropy") for line in lines if "entropy" in line] == [2]


def test_each_answer_has_a_table():
    found = Distribution((CAT,), 1.5, CAT)
    lines = write([Column("sft", next={0: found, 1: found})], table=True, samples=2)
    assert [line.strip() for line in lines if "answer " in line and "each" not in line] == [
        *("sft, answer 1", "sft, answer 2"),
    ]


class Server:
    """Answers with what was asked, and fails at the second answer of a model called bad."""

    def __init__(self):
        self.asked = []

    def distribution(self, request):
        self.asked.append(request)
        if request.model == "bad" and len(self.asked) == 2:
            raise ModelError("No memory. Ask for less.")
        return Distribution((), 0.0)


def answers(name, *lengths):
    tokens = {
        sample: [Token(sample, 10 * sample + at, "a", -1.0, 1, 0.5) for at in range(length)]
        for sample, length in enumerate(lengths)
    }
    return Column(name, tokens=tokens)


def request(model):
    turns = ({"role": "user", "content": "Why?"},)
    return GenerationRequest(model, turns, reference="base", tokenizer="t", reference_tokenizer="r")


def test_what_was_said_before_is_given_and_short_answers_are_left_out():
    server, column = Server(), answers("sft", 5, 2, 3)
    look_ahead(server, [request("sft")], [column], LOOK)
    assert [(one.prefix, one.chosen) for one in server.asked] == [((0, 1), 2), ((20, 21), 22)]
    assert list(column.next) == [0, 2]
    (asked, _) = server.asked
    assert (asked.model, asked.reference, asked.top) == ("sft", "base", 2)
    assert (asked.tokenizer, asked.reference_tokenizer) == ("t", "r")


@pytest.mark.parametrize("failed_before", [True, False])
def test_a_model_that_fails_is_asked_no_further(failed_before):
    server, bad, good = Server(), answers("bad", 3, 3, 3), answers("good", 3)
    if failed_before:
        bad.failure = "No model in x."
    look_ahead(server, [request("bad"), request("good")], [bad, good], LOOK)
    assert [one.model for one in server.asked] == ["bad"] * (0 if failed_before else 2) + ["good"]
    assert bad.failure == ("No model in x." if failed_before else "No memory. Ask for less.")
    assert len(bad.next) == (0 if failed_before else 1)
    assert (good.failure, list(good.next)) == ("", [0])
