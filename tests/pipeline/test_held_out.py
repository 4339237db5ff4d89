import math

import pytest
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.held_out import HeldOut, Selection, leave_out
from pipeline.records import Prompt

HELD_OUT = [
    Prompt.from_text(text) for text in ("Tom has a cat", "fox", "Where is Mia?", "The boat", "12")
]


@pytest.fixture
def make_held_out():
    def make(trainer, prompts=HELD_OUT):
        return HeldOut(trainer.sampler, prompts, trainer.room, trainer.ask)

    return make


def test_the_start_ties_with_itself(make_trainer, make_held_out):
    trainer = make_trainer()
    figures = make_held_out(trainer).measure(trainer.candidate, trainer.ref_policy)
    assert figures["eval/win_rate"] == 0.5
    assert figures["eval/kl"] == 0
    assert figures["eval/scores"] == figures["eval/start_scores"]
    assert figures["eval/prompts"] == 5


def test_figures_are_those_of_the_answers_one_by_one(make_trainer, make_held_out):
    trainer = make_trainer(policy_seed=3)
    figures = make_held_out(trainer).measure(trainer.policy, trainer.ref_policy)
    scores: dict[str, list[float]] = {"policy": [], "ref_policy": []}
    kl = []
    for prompt in HELD_OUT:
        before = trainer.formatter.prompt_ids(prompt.messages)
        for name, into in scores.items():
            (completion,) = trainer.sampler.sample(getattr(trainer, name), [prompt])
            ids = torch.tensor([before + completion.ids])
            missing = 0.0 if completion.finish_reason == "eos" else 1.0
            into.append(trainer.reward.model(input_ids=ids).logits.item() - 0.25 - missing)
            if name == "policy":
                places = torch.arange(len(before) - 1, ids.shape[1] - 1)
                both = [
                    model(input_ids=ids).logits[0].log_softmax(-1)[places, ids[0, places + 1]]
                    for model in (trainer.policy, trainer.ref_policy)
                ]
                kl.append((both[0] - both[1]).sum().item())
    ours, start = scores["policy"], scores["ref_policy"]
    assert figures["eval/scores"] == pytest.approx(sum(ours) / 5, abs=1e-6)
    assert figures["eval/start_scores"] == pytest.approx(sum(start) / 5, abs=1e-6)
    assert figures["eval/kl"] == pytest.approx(sum(kl) / 5, abs=1e-5)
    wins = sum(a > b for a, b in zip(ours, start, strict=True))
    assert figures["eval/win_rate"] == pytest.approx(wins / 5)
    assert 0 < figures["eval/win_rate"] < 1


def test_measuring_changes_no_training(make_trainer, make_held_out, timeless):
    plain, measured = make_trainer(), make_trainer()
    held_out = make_held_out(measured)
    for _ in range(2):
        held_out.measure(measured.candidate, measured.ref_policy)
        assert timeless(measured.step()) == timeless(plain.step())


def test_the_start_is_asked_once_and_an_evaluation_repeats_itself(make_trainer, make_held_out):
    trainer = make_trainer(policy_seed=3)
    held_out = make_held_out(trainer)
    first = held_out.measure(trainer.policy, trainer.ref_policy)
    # A start that cannot answer shows that it is not asked again.
    assert held_out.measure(trainer.policy, None) == first
    assert make_held_out(trainer).measure(trainer.policy, trainer.ref_policy) == first


def test_prompts_that_are_trained_on_are_left_out():
    trained = [HELD_OUT[1], Prompt.from_text("other")]
    assert leave_out(HELD_OUT, trained, 1) == [HELD_OUT[0], *HELD_OUT[2:]]
    with pytest.raises(ConfigError, match=r"ppo\.eval_prompts must hold 1 or more .* got 0 of 5"):
        leave_out(HELD_OUT, HELD_OUT, 1)
    with pytest.raises(ConfigError, match="must hold 6 or more"):
        leave_out(HELD_OUT, [], 6)


def test_a_held_out_prompt_without_room_is_refused(make_trainer, make_held_out):
    with pytest.raises(DataError, match=r"ppo\.eval_prompts: a prompt must have at most 56 tokens"):
        make_held_out(make_trainer(), [Prompt.from_text("cat dog fox " * 30)])


def test_the_best_is_the_first_of_the_highest():
    selection = Selection()
    seen = [selection.note(i, score) for i, score in enumerate([-3.0, -1.0, -1.0, -2.0, 0.5, 0.1])]
    assert seen == [True, True, False, False, True, False]
    assert (selection.best_scores, selection.best_iteration, selection.misses) == (0.5, 4, 1)


def test_patience_ends_after_so_many_misses_in_a_row():
    selection = Selection()
    over = []
    for i, score in enumerate([1.0, 0.5, 2.0, 1.9, 1.8, 1.7]):
        selection.note(i, score)
        over.append((selection.is_over(0), selection.is_over(2), selection.is_over(3)))
    assert [two for _, two, _ in over] == [False] * 4 + [True, True]
    assert [three for _, _, three in over] == [False] * 5 + [True]
    assert not any(never for never, _, _ in over)


def test_a_selection_goes_on_from_its_state():
    first, second = Selection(), Selection()
    assert first.best_scores == -math.inf
    first.note(4, 0.25)
    first.note(8, 0.125)
    second.load_state_dict(first.state_dict())
    assert second == first
