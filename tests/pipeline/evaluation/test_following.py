from __future__ import annotations

from typing import Any

import pytest

from pipeline.evaluation.following import record_answers, win_rate_against
from pipeline.records import Prompt
from pipeline.sampling import SampledText

TURNS = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Where is Tom?"},
)


def test_a_row_tells_the_whole_prompt_beside_its_last_turn(tiny_formatter):
    ids = [*tiny_formatter.tokenizer.encode("here."), tiny_formatter.end_id]
    prompt = Prompt(TURNS, "chat")
    (row,) = record_answers([prompt], [SampledText(ids, "here.", "eos")], tiny_formatter)
    assert row == {
        **{"prompt_id": prompt.id, "prompt": "Where is Tom?", "messages": list(TURNS)},
        **{"use_case": "chat", "completion": "here.", "finish_reason": "eos"},
        **{"tokens": len(ids) - 1, "ids": ids},
    }


def answers(**said: tuple[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt, "completion": text, **values}
        for prompt, (text, values) in said.items()
    ]


def test_the_same_text_ties_with_itself_whatever_the_reward_models_rounding():
    ours = answers(p=("same", {"score": 1.000001}), q=("same", {"score": 0.3}))
    theirs = answers(p=("same", {"score": 1.0}), q=("same", {"score": 0.300001}))
    assert win_rate_against(ours, theirs) == {"win_rate": 0.5, "win_rate_stderr": 0.0}


def test_the_gold_judges_before_the_reward_model_and_ties_count_half():
    ours = answers(
        p=("a", {"utility": 0.9, "score": -1.0}),
        q=("b", {"utility": 0.4}),
        r=("c", {"utility": 0.1}),
        s=("d", {"score": 9.0}),
    )
    theirs = answers(
        p=("x", {"utility": 0.2, "score": 1.0}),
        q=("y", {"utility": 0.4}),
        r=("z", {"utility": 0.6}),
        t=("d", {"score": 0.0}),
    )
    found = win_rate_against(ours, theirs)
    assert found["win_rate"] == pytest.approx((1 + 0.5 + 0) / 3)
    only_scored = [answers(p=("a", {"score": 2.0})), answers(p=("b", {"score": 1.0}))]
    assert win_rate_against(*only_scored)["win_rate"] == 1.0
    assert win_rate_against(ours, answers(t=("d", {"score": 0.0}))) == {}
