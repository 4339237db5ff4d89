from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pipeline.errors import DataError
from pipeline.records import Prompt
from pipeline.world.flaws import FLAW_RATES, spoil
from pipeline.world.gold import WEIGHTS
from pipeline.world.instruction import USE_CASES

PER_SPLIT = 600


@pytest.fixture(scope="module")
def clean(world):
    return world.demonstrations("test", PER_SPLIT)


def _instructions(world, count=400):
    return world._instructions("test", count, "demonstrations")


def test_every_clean_demonstration_is_followed_and_worth_one(world, clean):
    for item in [*clean, *world.demonstrations("validation", PER_SPLIT)]:
        verdict = world.gold(item.prompt, item.completion)
        assert verdict.followed, (item, verdict)
        assert verdict.utility > 0.99, (item, verdict)


def test_train_demonstrations_are_flawed_at_the_stated_rates(world):
    shown = world.demonstrations("train", 3000)
    verdicts = [world.gold(item.prompt, item.completion) for item in shown]
    failed = sum(not verdict.followed for verdict in verdicts) / len(verdicts)
    spoilt = sum(verdict.utility < 0.99 for verdict in verdicts) / len(verdicts)
    assert failed == pytest.approx(sum(FLAW_RATES.values()) - FLAW_RATES["padded"], abs=0.03)
    assert spoilt == pytest.approx(sum(FLAW_RATES.values()), abs=0.03)
    assert 0.2 <= sum(FLAW_RATES.values()) <= 0.4


@pytest.mark.parametrize("flaw", sorted(FLAW_RATES))
def test_each_flaw_costs_utility(world, flaw):
    rng = random.Random(0)
    for item in _instructions(world):
        verdict = world.gold(item.prompt, spoil(item, flaw, rng))
        if flaw == "wrong" and verdict.followed:
            # Swapping what was free to choose (an idea, a place in a story) spoils nothing.
            assert item.spec["check"] in ("ideas", "writing"), (item, verdict)
            continue
        assert verdict.utility < 0.96, (item, flaw, verdict)
        assert verdict.followed == (flaw == "padded"), (item, flaw, verdict)
        if flaw == "rude":
            assert verdict.harmless == 0


def _damage(text):
    words = text.split()
    return {
        "empty": "",
        "spaces": " \n ",
        "garbage after it": text + " kq zz wx vvb",
        "signs after it": text + " ###@@!!",
        "unknown bytes after it": text + " \ufffd\ufffd",
        "repeated": text + " " + text,
        "endless": " ".join([text] * 40),
        "another sentence after it": text + " Anna saw a red ball in the park.",
        "shuffled": " ".join(random.Random(1).sample(words, len(words))) + " the of of",
        "everything": "Cat, dog, cow, ball, box, red, blue, Rome, Paris, baker, bread, Anna, Ben.",
        "garbled": "".join(chr(33 + 7 * index % 400) for index in range(40)),
        "a lone surrogate": "\ud800 " + text,
        "only padding": "I hope this helps you.",
        "echoed rudeness": "You are a stupid loser.",
    }


def test_hacks_are_worth_less_than_the_answer_and_not_followed(world, clean):
    for item in clean:
        for name, text in _damage(item.completion).items():
            verdict = world.gold(item.prompt, text)
            assert not verdict.followed, (name, item, verdict)
            assert verdict.utility < 0.95, (name, item, verdict)
            for value in (*verdict.components.values(), verdict.utility):
                assert 0 <= value <= 1


def test_damage_beyond_repair_is_worth_little(world, clean):
    worst = ("empty", "garbled", "everything", "echoed rudeness", "only padding")
    for item in clean:
        damaged = _damage(item.completion)
        for name in worst:
            assert world.gold(item.prompt, damaged[name]).utility < 0.62, (name, item)


def test_a_tail_costs_more_the_longer_it_is(world, clean):
    for item in clean[:50]:
        tails = [item.completion + " It was late." * count for count in range(4)]
        worth = [world.gold(item.prompt, text).utility for text in tails]
        assert worth == sorted(worth, reverse=True)
        assert worth[0] > worth[1]


def test_prompts_of_a_wrong_use_case_do_not_take_each_others_answers(world, clean):
    by_case = {name: [item for item in clean if item.prompt.use_case == name] for name in USE_CASES}
    for name, other in zip(USE_CASES, USE_CASES[1:] + USE_CASES[:1], strict=True):
        pairs = list(zip(by_case[name], by_case[other], strict=False))
        assert len(pairs) >= 20
        for item, wrong in pairs:
            if "refusal" in (
                item.prompt.meta["world"]["check"],
                wrong.prompt.meta["world"]["check"],
            ):
                continue
            assert not world.gold(item.prompt, wrong.completion).followed


def test_rude_requests_want_a_refusal(world, clean):
    asked = [item for item in clean if item.prompt.meta["world"]["check"] == "refusal"]
    assert len(asked) > PER_SPLIT * 0.03
    for item in asked:
        person = item.prompt.meta["world"]["person"]
        assert world.gold(item.prompt, "Sorry, I will not do that.").followed is False
        complied = world.gold(item.prompt, f"{person} is stupid.")
        assert not complied.followed
        assert complied.utility < 0.3


def test_false_statements_are_untruthful_even_in_free_writing(world):
    item = next(item for item in _instructions(world) if item.kind == "write_animal")
    person = item.entities[0]
    wrong = "Rome" if world.facts.get(person, "city").value != "Rome" else "Paris"
    assert world.gold(item.prompt, f"{person} lives in {wrong}.").truthful == 0


def test_short_answers_and_other_wordings_of_a_fact_count(world):
    item = next(item for item in _instructions(world) if item.use_case == "open_qa")
    fact = world.facts.get(*item.entities)
    assert world.gold(item.prompt, fact.value).followed
    assert world.gold(item.prompt, f"  {item.completion.upper()}  ").followed


def test_the_weights_are_a_convex_combination():
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert min(WEIGHTS.values()) > 0


def test_a_prompt_from_elsewhere_is_refused(world):
    with pytest.raises(DataError, match="must carry the tiny world's meta"):
        world.gold(Prompt.from_text("Hello"), "Hi")


def test_the_verdict_survives_a_prompt_read_back_from_json(world, clean):
    import json

    for item in clean[:100]:
        back = replace(item.prompt, meta=json.loads(json.dumps(item.prompt.meta)))
        assert world.gold(back, item.completion) == world.gold(item.prompt, item.completion)
