from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.config.run import resolve
from pipeline.config.toxicity import ToxicitySection
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, DataError, RewardError
from pipeline.evaluation.bias import INSTRUCTIONS
from pipeline.evaluation.toxicity import (
    ToxicityMeasure,
    ask,
    hash_toxicity,
    instruct,
    summarize_toxicity,
)
from pipeline.records import Prompt, read_jsonl
from pipeline.reward_functions import load_function
from stages import evaluate

CODE = """
ASKED = []

def vowels(prompts, completions):
    ASKED.append([prompt.messages[-1]["content"] for prompt in prompts])
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in completions]

def fails(prompts, completions):
    raise ValueError("no model")
"""


@pytest.fixture(autouse=True)
def scorer(tmp_path, monkeypatch):
    """Return a module of the user's own that scores completions."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "my_toxicity.py"
    path.write_text(CODE)
    yield path
    sys.modules.pop("my_toxicity", None)


@pytest.fixture
def prompts(write_rows):
    return str(write_rows([{"prompt": f"Say {i}"} for i in range(5)], "toxic.jsonl"))


def section(path, **changes):
    tree = {
        "run_dir": "x",
        "pretrain": {"tokens": 1, "sources": ["tiny:facts"]},
        "evaluate": {
            "toxicity": {
                "function": "my_toxicity:vowels",
                "prompts": [path],
                "decoding": {"max_new_tokens": 6},
                **changes,
            }
        },
    }
    return resolve(tree).stages["evaluate"].toxicity


@pytest.fixture
def measured(prompts, make_policy, tiny_formatter):
    """Return what two completions a prompt give, with every instruction."""
    asked = ToxicityMeasure(section(prompts, samples=2), 3, Workers(), 4)
    return asked, asked.measure(make_policy(context=256), tiny_formatter)


def test_each_instruction_has_its_figures_from_its_rows(measured):
    _, part = measured
    assert list(part.figures) == [f"toxicity_{style}" for style in INSTRUCTIONS]
    for style in INSTRUCTIONS:
        rows = [row for row in part.rows if row["instruction"] == style]
        assert [(row["place"], row["sample"]) for row in rows] == [
            (place, sample) for place in range(5) for sample in range(2)
        ]
        pairs = zip(rows[::2], rows[1::2], strict=True)
        assert any(one["completion"] != other["completion"] for one, other in pairs)
        scores = np.array([row["toxicity"] for row in rows]).reshape(5, 2)
        figures = part.figures[f"toxicity_{style}"]["0"]
        assert figures["toxicity"] == pytest.approx(scores.mean())
        assert figures["toxicity_max"] == scores.max()
        assert figures["toxic_share"] == pytest.approx((scores >= 0.5).mean())
        assert figures["toxicity_expected_max"] == pytest.approx(scores.max(axis=1).mean())
        assert figures["n"] == 5


@pytest.mark.usefixtures("measured")
def test_the_function_is_asked_once_an_instruction_with_what_was_asked():
    asked = sys.modules["my_toxicity"].ASKED
    assert len(asked) == 3
    for style, texts in zip(INSTRUCTIONS, asked, strict=True):
        assert texts == [
            f"{INSTRUCTIONS[style]} Say {i}".strip() for i in range(5) for _ in range(2)
        ]


def test_how_prompts_are_grouped_changes_no_completion(measured, make_policy, tiny_formatter):
    asked, part = measured
    other = ToxicityMeasure(asked.section, 3, Workers(), 64)
    again = other.measure(make_policy(context=256), tiny_formatter)
    assert [row["completion"] for row in again.rows] == [row["completion"] for row in part.rows]
    assert len({row["completion"] for row in part.rows}) > 5


def test_a_prompt_without_room_for_its_completion_is_named(prompts, make_policy, tiny_formatter):
    asked = ToxicityMeasure(section(prompts), 3, Workers(), 4)
    with pytest.raises(DataError, match=r"^evaluate\.toxicity\.prompts: a prompt must have"):
        asked.measure(make_policy(context=8), tiny_formatter)


def test_an_instruction_stands_before_the_last_turn():
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go on"})
    prompt = Prompt(turns, meta={"source": "x"})
    assert instruct(prompt, "basic") is prompt
    made = instruct(prompt, "biased")
    assert made.messages[0] == turns[0]
    assert made.messages[1]["content"] == f"{INSTRUCTIONS['biased']} Go on"
    assert made.meta == prompt.meta


def test_figures_by_hand():
    rows = [
        {"place": place, "toxicity": score}
        for place, scores in enumerate(((0.1, 0.7), (0.5, 0.3), (0.0, 0.2)))
        for score in scores
    ]
    figures = summarize_toxicity(rows)
    assert figures == {
        "toxicity": pytest.approx(0.3),
        "toxicity_stderr": pytest.approx(np.std([0.4, 0.4, 0.1], ddof=1) / np.sqrt(3)),
        "toxicity_max": 0.7,
        "toxic_share": pytest.approx(2 / 6),
        "toxicity_expected_max": pytest.approx((0.7 + 0.5 + 0.2) / 3),
        "toxic_prompts": pytest.approx(2 / 3),
        "n": 3,
    }
    single = summarize_toxicity([{"place": 0, "toxicity": 0.5}, {"place": 1, "toxicity": 0.0}])
    assert set(single) == {"toxicity", "toxicity_stderr", "toxicity_max", "toxic_share", "n"}


PROMPTS = [Prompt.from_text("a"), Prompt.from_text("b")]


def say(answer):
    def score(_prompts, _completions):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return score


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (say(ValueError("no model")), r"got ValueError \(no model\)"),
        (say(0.5), "got a float"),
        (say([0.5]), "got 1 numbers for 2 completions"),
        (say([0.5, None]), "got None at prompt"),
        (say([0.5, float("nan")]), "got nan at prompt"),
    ],
)
def test_a_function_that_gives_no_number_is_refused_in_one_line(function, said):
    with pytest.raises(
        RewardError, match=f"evaluate.toxicity.function must give.*{said}"
    ) as caught:
        ask(function, PROMPTS, ["x", "y"])
    assert "\n" not in str(caught.value)


def test_arrays_will_do():
    assert ask(say(np.array([0.5, 1.0], dtype=np.float32)), PROMPTS, ["x", "y"]) == [0.5, 1]


def test_the_hash_follows_function_prompts_and_settings(scorer, prompts):
    first = hash_toxicity(section(prompts), 0)
    assert hash_toxicity(section(prompts), 0) == first
    assert hash_toxicity(section(prompts, samples=3), 0) != first
    scorer.write_text(CODE + "\n# changed\n")
    assert hash_toxicity(section(prompts), 0) != first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"function": "vowels"}, "evaluate.toxicity.function must have the form module:function"),
        ({"prompts": []}, "evaluate.toxicity.prompts must name prompts"),
        ({"instructions": []}, "evaluate.toxicity.instructions must name one or more"),
        ({"instructions": ["polite"]}, "evaluate.toxicity.instructions"),
        ({"samples": 0}, "evaluate.toxicity.samples must be 1 or more"),
        (
            {"samples": 2, "decoding": {"temperature": 0}},
            "evaluate.toxicity.samples must be 1 at temperature 0",
        ),
    ],
)
def test_settings_that_cannot_be(prompts, changes, said):
    with pytest.raises(ConfigError, match=said):
        section(prompts, **changes)


def test_defaults_ask_with_all_three_instructions():
    assert ToxicitySection("a:b").instructions == list(INSTRUCTIONS)


def blocks_of(language):
    page = Path(__file__).parents[3].joinpath("docs/evaluation.md").read_text(encoding="utf-8")
    return [
        part.partition("```")[0]
        for part in page.split("## Bias and safety")[1].split(f"```{language}\n")[1:]
    ]


def test_the_page_shows_a_configuration_that_loads_and_a_function_that_runs(tmp_path):
    tree = {"run_dir": "x", "base": "b", **yaml.safe_load(blocks_of("yaml")[0])}
    asked = resolve(tree).stages["evaluate"].toxicity
    assert (asked.function, asked.samples) == ("my_package.toxicity:score", 25)
    (tmp_path / "shown_toxicity.py").write_text(blocks_of("python")[0])
    score = load_function("shown_toxicity:score", "evaluate.toxicity.function")
    assert ask(score, PROMPTS, ["You idiot", "Hello Mia"]) == [1, 0]
    sys.modules.pop("shown_toxicity")


def test_in_the_stage_it_adds_to_what_was_measured(tree, finish, prompts):
    finish("pretrain")
    tree["evaluate"] = {"tasks": tree["evaluate"]["tasks"], "shots": [0]}
    evaluate.run(resolve(tree), "evaluate")
    folder = Path(tree["run_dir"]) / "evaluate"
    before = json.loads((folder / "results.json").read_text())["pretrain"]
    tree["evaluate"]["toxicity"] = {
        "function": "my_toxicity:vowels",
        "prompts": [prompts],
        "instructions": ["basic"],
        "decoding": {"max_new_tokens": 6},
    }
    # A part more needs no --force.
    evaluate.run(resolve(tree), "evaluate")
    after = json.loads((folder / "results.json").read_text())["pretrain"]
    assert after["questions"] == before["questions"]
    rows = [row for _, row in read_jsonl(folder / "toxicity" / "pretrain.jsonl")]
    assert after["toxicity_basic"]["0"]["toxicity"] == pytest.approx(
        np.mean([row["toxicity"] for row in rows])
    )
    # It has no accuracy, and takes no part in the mean of those.
    summary = json.loads((folder / "summary.json").read_text())["pretrain"]
    assert summary["fewshot"] == before["questions"]["0"]["acc"]
    asked = sys.modules["my_toxicity"].ASKED
    count = len(asked)
    evaluate.run(resolve(tree), "evaluate")
    assert len(asked) == count
