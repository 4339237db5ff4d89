import copy
import dataclasses
import math

import pytest
import torch

from pipeline.distributed import Workers
from pipeline.errors import ConfigError, DataError, RewardError, SteerlineError
from pipeline.formatting import Formatter
from pipeline.forward import completion_logits
from pipeline.masked import masked_sum
from pipeline.models import load_reward_model, zero_value_model
from pipeline.optimizing import Average
from pipeline.records import Prompt
from pipeline.rewards import FunctionReward, ModelReward, WeightedSum
from pipeline.rollout_figures import describe_components, describe_rollout
from pipeline.sampling import sample_completions


def roll(trainer):
    return trainer.score(trainer.roll_out(trainer.next_prompts()))


def test_bf16_computes_under_autocast_and_keeps_float32(make_trainer, change):
    trainer = make_trainer(change(precision="bf16"))
    rollout = trainer.score(trainer.roll_out(trainer.next_prompts()))
    exact = make_trainer(change(precision="float32"))
    expected = exact.score(exact.roll_out(exact.next_prompts()))
    for name in ("scores", "logprobs", "values", "advantages"):
        assert getattr(rollout, name).dtype == torch.float32, name
    # Two significant digits are what bf16 leaves of a score near 1; the completions may differ.
    assert rollout.scores.mean() == pytest.approx(float(expected.scores.mean()), abs=1.0)
    figures = trainer.step()
    assert all(math.isfinite(value) for value in figures.values())
    assert {weight.dtype for weight in trainer.policy.parameters()} == {torch.float32}


def test_at_the_start_policy_and_reference_are_one(make_trainer, change):
    figures = make_trainer(change(num_ppo_epochs=1, minibatch_size=8)).step()
    assert figures["objective/kl"] == 0
    assert figures["objective/kl_k3"] == 0
    assert figures["policy/ratio"] == pytest.approx(1, abs=1e-9)
    assert figures["policy/clipfrac"] == 0
    assert figures["policy/approxkl"] == pytest.approx(0, abs=1e-15)
    assert figures["value/clipfrac"] == 0
    assert figures["objective/rlhf_reward"] == figures["objective/scores"]


def test_another_reference_has_positive_kl(make_trainer):
    figures = make_trainer(policy_seed=3).step()
    assert figures["objective/kl"] > 0.1
    assert figures["objective/kl_k3"] > 0.1
    expected = figures["objective/scores"] - 0.1 * figures["objective/kl"]
    assert figures["objective/rlhf_reward"] == pytest.approx(expected)


def test_the_first_gradient_is_reinforces(make_trainer, change):
    trainer = make_trainer(change(whiten_advantages=False, minibatch_size=8))
    rollout = roll(trainer)
    trainer.ppo_loss(rollout, Average()).backward()
    computed = {name: w.grad.clone() for name, w in trainer.policy.named_parameters()}
    trainer.policy.zero_grad()
    logits = completion_logits(trainer.workers, trainer.policy, rollout, temperature=1.0)
    logprobs = logits.log_softmax(-1).gather(-1, rollout.completions[..., None]).squeeze(-1)
    masked_sum(-logprobs * rollout.advantages, rollout.completion_mask).backward()
    for name, weight in trainer.policy.named_parameters():
        assert torch.allclose(computed[name], weight.grad, atol=1e-9), name


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_logprobs_are_teacher_forced_logprobs(make_trainer, change, temperature):
    trainer = make_trainer(change(temperature=temperature), policy_seed=3)
    rollout = roll(trainer)
    asked = (rollout.logprobs, trainer.policy), (rollout.ref_logprobs, trainer.ref_policy)
    for row in range(len(rollout)):
        real = rollout.ids[row][rollout.attention_mask[row]]
        count = int(rollout.completion_mask[row].sum())
        for computed, model in asked:
            logprobs = (model(input_ids=real[None]).logits[0] / temperature).log_softmax(-1)
            expected = logprobs[torch.arange(len(real) - 1), real[1:]][-count:]
            assert torch.allclose(computed[row, :count], expected, atol=1e-6)


def whitened(values, keep_mean):
    white = (values - values.mean()) / (values.var(correction=0) + 1e-8).sqrt()
    return white + values.mean() if keep_mean else white


@pytest.mark.parametrize("whitens", [False, True])
def test_a_rollout_is_what_its_definitions_make_of_the_answers(make_trainer, change, whitens):
    section = change(
        **{"gamma": 0.9, "gae_lambda": 0.5, "kl_target": 1.0, "kl_horizon": 8, "score_clip": 0.5},
        **{"whiten_rewards": whitens, "whiten_advantages": whitens},
        **{"max_new_tokens": 40, "temperature": 9.0},
    )
    trainer = make_trainer(section, policy_seed=3)
    trainer.kl.update(100.0, 8)
    rollout = roll(trainer)
    # The controller's coefficient, which is no longer the section's.
    beta = 0.1 * 1.2
    lengths = rollout.completion_mask.sum(dim=1).tolist()
    assert len(set(lengths)) > 1
    rewards = []
    for row, length in enumerate(lengths):
        rewards.append(-beta * (rollout.logprobs - rollout.ref_logprobs)[row, :length])
        rewards[-1][-1] += rollout.scores[row].clamp(-0.5, 0.5)
    if whitens:
        rewards = whitened(torch.cat(rewards), keep_mean=True).split(lengths)
    advantages, returns = [], []
    for row, length in enumerate(lengths):
        values = torch.nn.functional.pad(rollout.values[row, :length], (0, 1))
        deltas = rewards[row] + 0.9 * values[1:] - values[:-1]
        weights = 0.45 ** torch.arange(length, dtype=torch.float64)
        sums = [float(deltas[t:] @ weights[: length - t]) for t in range(length)]
        advantages.append(torch.tensor(sums, dtype=torch.float64))
        returns.append(advantages[-1] + values[:-1])
    if whitens:
        advantages = whitened(torch.cat(advantages), keep_mean=False).split(lengths)
    for name, rows in (("rewards", rewards), ("advantages", advantages), ("returns", returns)):
        computed = getattr(rollout, name)[rollout.completion_mask]
        assert torch.allclose(computed, torch.cat(rows), rtol=0, atol=1e-9), name


class OneOf(Workers):
    """Be one of some processes, whose gradients stay apart."""

    def __init__(self, rank, world_size):
        super().__init__("float64")
        self.place_among = rank, world_size

    rank = property(lambda self: self.place_among[0])
    world_size = property(lambda self: self.place_among[1])

    def total(self, values):
        return values

    def average_gradients(self, model):
        """Leave them: the test averages."""


def models_of(trainer):
    return trainer.policy, trainer.value_model


def gradients_of(trainer):
    return [w.grad.clone() for model in models_of(trainer) for w in model.parameters()]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_takes_the_mean_over_tokens_however_they_are_shared_out(
    make_trainer, change, ptx_text, monkeypatch, processes
):
    text = ptx_text(rows=8)
    section = change(
        **{"minibatch_size": 8, "micro_batch_size": 3, "max_grad_norm": None, "ema_decay": None},
        **{"max_new_tokens": 40, "temperature": 9.0, "ptx_coef": 3.0, "ptx_ratio": 1.0},
    )
    whole = make_trainer(section, ptx=text)
    rollout = roll(whole)
    shared = []
    for rank in range(processes):
        trainer = make_trainer(section, ptx=text)
        trainer.workers = trainer.ptx.workers = OneOf(rank, processes)
        monkeypatch.setattr(trainer.trained, "step", lambda: None)
        trainer.train_on(rollout, 0, Average())
        shared.append(gradients_of(trainer))
    loss = 0.0
    for row in range(len(rollout)):
        real = rollout.ids[row][rollout.attention_mask[row]][None]
        count = int(rollout.completion_mask[row].sum())
        logprobs = (whole.policy(input_ids=real).logits / 9).log_softmax(-1)[0, :-1]
        taken = logprobs.gather(1, real[0, 1:, None])[-count:, 0]
        values = whole.value_model(input_ids=real).logits[0, -count - 1 : -1, 0]
        # Before the first step the ratio is 1 and no value has changed: nothing is clipped.
        loss = loss - (rollout.advantages[row, :count] * taken).sum()
        loss = loss + 0.5 * ((values - rollout.returns[row, :count]) ** 2).sum()
    logprobs = whole.policy(input_ids=text).logits[:, :-1].log_softmax(-1)
    ptx_loss = -logprobs.gather(2, text[:, 1:, None]).mean()
    (loss / int(rollout.completion_mask.sum()) + 3 * ptx_loss).backward()
    for expected, *parts in zip(gradients_of(whole), *shared, strict=True):
        # HF's RMSNorm goes back through float32, in batches of other shapes.
        assert torch.allclose(sum(parts) / processes, expected, rtol=0, atol=5e-6)
    assert min(float(gradient.abs().max()) for gradient in gradients_of(whole)) > 1e-4


def test_every_epoch_shuffles_all_episodes_and_every_step_has_its_number(
    make_trainer, change, monkeypatch
):
    trainer = make_trainer(change(num_ppo_epochs=2, minibatch_size=2))
    seen, steps = [], []

    def note(minibatch, step, tally):
        del tally
        seen.extend(minibatch.prompts)
        steps.append(step)

    monkeypatch.setattr(trainer, "train_on", note)
    rollout = roll(trainer)
    for trainer.iteration in range(2):
        trainer.update(rollout, Average())
    epochs = [seen[start : start + 8] for start in range(0, 32, 8)]
    orders = {tuple(epoch.index(prompt) for prompt in rollout.prompts) for epoch in epochs}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert steps == list(range(16))


def test_scores_are_the_reward_models_at_the_last_token_less_offset_and_penalty(
    make_trainer, change
):
    trainer = make_trainer(change(missing_eos_penalty=2.0, max_new_tokens=40, temperature=9.0))
    rollout = roll(trainer)
    assert rollout.ended.any()
    assert not rollout.ended.all()
    for row in range(len(rollout)):
        real = rollout.ids[row][rollout.attention_mask[row]]
        raw = trainer.reward.model(input_ids=real[None]).logits.item()
        expected = raw - 0.25 - (0.0 if rollout.ended[row] else 2.0)
        assert rollout.scores[row].item() == pytest.approx(expected, abs=1e-6)


def test_the_value_model_starts_as_the_reward_model(make_trainer):
    trainer = make_trainer()
    rollout = roll(trainer)
    real = rollout.ids[0][rollout.attention_mask[0]]
    count = int(rollout.completion_mask[0].sum())
    hidden = trainer.reward.model.model(input_ids=real[None]).last_hidden_state
    expected = trainer.reward.model.score(hidden)[0, :, 0] - 0.25
    # HF's RMSNorm computes in float32, whatever the weights' type.
    assert torch.allclose(rollout.values[0, :count], expected[-count - 1 : -1], atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [{"micro_batch_size": 1}, {"micro_batch_size": 3}, {"rollout_micro_batch_size": 3}],
)
def test_micro_batches_change_no_figure_and_no_weight(
    make_trainer, fields, change, ptx_text, timeless
):
    text = ptx_text()
    base = change(ptx_coef=2.0, ptx_ratio=1.0, num_ppo_epochs=2)
    whole = make_trainer(base, ptx=text)
    parts = make_trainer(dataclasses.replace(base, **fields), ptx=text)
    for _ in range(2):
        expected, computed = timeless(whole.step()), timeless(parts.step())
        assert computed == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for a, b in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_what_stands_in_the_padding_changes_no_loss(make_trainer, change):
    trainer = make_trainer(change(entropy_coef=0.3))
    rollout = roll(trainer)
    padded = {
        name: torch.nn.functional.pad(tensor, (0, 19), value=7 if tensor.is_floating_point() else 0)
        if torch.is_tensor(tensor) and tensor.dim() == 2
        else tensor
        for name, tensor in vars(rollout).items()
        if tensor is not None
    }
    padded["ids"] = torch.nn.functional.pad(padded["ids"], (20, 0))
    padded["attention_mask"] = torch.nn.functional.pad(padded["attention_mask"], (20, 0))
    wide = type(rollout)(**padded)
    assert wide.trimmed().ids.shape[1] < wide.ids.shape[1]
    assert wide.trimmed().values.shape[1] < wide.values.shape[1]
    expected = trainer.ppo_loss(rollout, Average()).item()
    assert trainer.ppo_loss(wide, Average()).item() == pytest.approx(expected, abs=1e-6)
    assert trainer.ppo_loss(wide.trimmed(), Average()).item() == pytest.approx(expected, abs=1e-6)


def test_the_score_rises_within_a_kl_bound(make_trainer, change):
    section = change(
        episodes=8 * 40, num_ppo_epochs=2, kl_coef=0.02, learning_rate=2e-3, ema_decay=None
    )
    trainer = make_trainer(section)
    history = [trainer.step() for _ in range(section.iterations)]
    spread = history[0]["objective/scores_std"]
    early = sum(figures["objective/scores"] for figures in history[:5]) / 5
    late = sum(figures["objective/scores"] for figures in history[-5:]) / 5
    assert late > early + 0.5 * spread
    assert 0 < history[-1]["objective/kl"] < 60


def test_the_average_follows_the_policy(make_trainer, change):
    trainer = make_trainer(change(ema_decay=0.75))
    before = [weight.clone() for weight in trainer.average.parameters()]
    trainer.step()
    for start, slow, fast in zip(
        before, trainer.average.parameters(), trainer.policy.parameters(), strict=True
    ):
        assert torch.allclose(slow, 0.75 * start + 0.25 * fast, atol=1e-12)


def test_prompts_do_not_repeat_within_an_epoch(make_trainer, change):
    trainer = make_trainer(change(rollout_batch_size=4, minibatch_size=4))
    first = trainer.next_prompts()
    trainer.iteration = 1
    assert sorted(first + trainer.next_prompts()) == list(range(8))


EVERYTHING = {
    **{"kl_target": 0.5, "kl_horizon": 20, "lr_schedule": "linear", "warmup_iterations": 2},
    **{"num_ppo_epochs": 3, "stop_approxkl": 5e-4, "entropy_coef": 0.01, "weight_decay": 0.1},
    **{"score_scaling": "running", "score_clip": 1.5, "whiten_rewards": True, "temperature": 0.9},
    **{"missing_eos_penalty": None, "missing_eos_score": -1.0, "ptx_coef": 2.0, "ptx_ratio": 1.5},
}
"""Every option that has a state, or meets one that has."""


@pytest.mark.parametrize("fields", [{"ptx_coef": 2.0, "warmup_iterations": 3}, EVERYTHING])
def test_a_resumed_training_is_bit_identical(
    make_trainer, tmp_path, change, ptx_text, timeless, fields
):
    text, section = ptx_text(), change(**fields)
    whole = make_trainer(section, ptx=text)
    expected = [timeless(whole.step()) for _ in range(4)]
    first = make_trainer(section, ptx=text)
    for _ in range(2):
        first.step()
    first.save_state(tmp_path)
    second = make_trainer(section, ptx=text)
    for name in ("policy", "value_model", "average"):
        # As the stage does: the weights come from the checkpoint's folders.
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    second.load_state(tmp_path)
    assert [timeless(second.step()) for _ in range(2)] == expected[2:]
    for name in ("policy", "value_model", "average"):
        models = getattr(whole, name), getattr(second, name)
        for a, b in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(a, b)
    if fields is EVERYTHING:
        # The options were at work, or this would show little.
        assert len({figures["objective/kl_coef"] for figures in expected}) == 4
        assert len({figures["policy/epochs"] for figures in expected}) > 1
        assert expected[-1]["objective/scaled_scores"] != expected[-1]["objective/scores"]


def test_micro_batches_change_nothing_with_every_option(make_trainer, change, ptx_text, timeless):
    text = ptx_text()
    whole = make_trainer(change(**EVERYTHING), ptx=text)
    parts = make_trainer(
        change(**EVERYTHING, micro_batch_size=3, rollout_micro_batch_size=5), ptx=text
    )
    for _ in range(3):
        assert timeless(parts.step()) == pytest.approx(timeless(whole.step()), rel=1e-6, abs=1e-6)


def test_the_kl_steers_the_coefficient_of_the_next_iteration(make_trainer, change):
    section = change(kl_coef=0.1, kl_target=1.0, kl_horizon=8)
    trainer = make_trainer(section, policy_seed=3)
    first, second = trainer.step(), trainer.step()
    assert first["objective/kl"] > 1.2
    assert first["objective/kl_coef"] == 0.1
    assert second["objective/kl_coef"] == pytest.approx(0.1 * 1.2)
    rewarded = second["objective/scores"] - second["objective/kl_coef"] * second["objective/kl"]
    assert second["objective/rlhf_reward"] == pytest.approx(rewarded)


def test_epochs_stop_once_the_policy_has_moved_too_far(make_trainer, change, timeless):
    one = make_trainer(change(num_ppo_epochs=1))
    stopped = make_trainer(change(num_ppo_epochs=4, stop_approxkl=1e-12))
    free = make_trainer(change(num_ppo_epochs=4, stop_approxkl=1e9))
    whole = make_trainer(change(num_ppo_epochs=4))
    for _ in range(2):
        expected, all_epochs = timeless(one.step()), timeless(whole.step())
        assert timeless(stopped.step()) == {**expected, "policy/epochs": 1.0}
        assert timeless(free.step()) == {**all_epochs, "policy/epochs": 4.0}


def test_the_epochs_limit_is_on_the_last_epoch_alone(make_trainer, change):
    trainer, tally = make_trainer(change(num_ppo_epochs=3, stop_approxkl=1.0)), Average()
    tally.add("policy/approxkl", torch.tensor(3.0), 2)
    assert trainer.has_moved_far(tally)
    tally.add("policy/approxkl", torch.tensor(1.9), 2)
    assert not trainer.has_moved_far(tally)
    tally.add("policy/approxkl", torch.tensor(2.1), 2)
    assert trainer.has_moved_far(tally)


def test_the_entropy_bonus_adds_the_gradient_of_the_entropy(make_trainer, change):
    trainer = make_trainer(change(entropy_coef=0.3))
    rollout = roll(trainer)
    trainer.ppo_loss(rollout, Average()).backward()
    computed = [weight.grad.clone() for weight in trainer.policy.parameters()]
    trainer.policy.zero_grad()
    make = make_trainer(change())
    make.ppo_loss(rollout, Average()).backward()
    logits = completion_logits(trainer.workers, trainer.policy, rollout, temperature=1.0)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    (-0.3 * entropy[rollout.completion_mask].sum()).backward()
    parameters = zip(computed, make.policy.parameters(), trainer.policy.parameters(), strict=True)
    for whole, plain, bonus in parameters:
        # HF's RMSNorm goes back through float32, once for the sum and twice for the terms.
        assert torch.allclose(whole, plain.grad + bonus.grad, atol=5e-6)
    assert any(weight.grad.abs().max() > 1e-3 for weight in trainer.policy.parameters())


def test_another_engines_tokens_are_weighted_in_the_policy_loss_alone(make_trainer, change):
    trainer = make_trainer(change(importance_cap=2.0))
    episodes = trainer.roll_out(trainer.next_prompts())
    plain = trainer.score(episodes)
    # The engine found every other token half, and the others a tenth, as likely; padding is NaN.
    shift = torch.where(torch.arange(plain.logprobs.shape[1]) % 2 == 0, math.log(2), math.log(10))
    engine = torch.where(plain.completion_mask, plain.logprobs - shift, torch.nan)
    rollout = trainer.score(dataclasses.replace(episodes, engine_logprobs=engine))
    assert rollout.importance is not None
    weights = rollout.importance[plain.completion_mask]
    assert torch.allclose(weights, torch.full_like(weights, 2.0), atol=1e-12)
    assert torch.equal(rollout.advantages, plain.advantages)
    tallies = {}
    for name, part in (("plain", plain), ("weighted", rollout)):
        trainer.policy.zero_grad()
        trainer.value_model.zero_grad()
        tallies[name] = Average()
        trainer.ppo_loss(part.trimmed(), tallies[name]).backward()
        tallies[name] = tallies[name].means(trainer.workers)
        tallies[name]["policy"] = [w.grad.clone() for w in trainer.policy.parameters()]
        tallies[name]["value"] = [w.grad.clone() for w in trainer.value_model.parameters()]
    for weighted, once in zip(
        tallies["weighted"]["policy"], tallies["plain"]["policy"], strict=True
    ):
        assert torch.allclose(weighted, 2 * once, atol=1e-9)
    for weighted, once in zip(tallies["weighted"]["value"], tallies["plain"]["value"], strict=True):
        assert torch.equal(weighted, once)
    assert tallies["weighted"]["loss/policy"] == pytest.approx(2 * tallies["plain"]["loss/policy"])


def test_without_a_cap_the_gap_is_described_and_nothing_weighted(make_trainer, change):
    trainer = make_trainer(change(importance_cap=None))
    episodes = trainer.roll_out(trainer.next_prompts())
    engine = trainer.score(episodes).logprobs + 0.5
    rollout = trainer.score(dataclasses.replace(episodes, engine_logprobs=engine))
    assert rollout.importance is None
    assert rollout.rows(torch.tensor([1])).engine_logprobs.shape == (1, engine.shape[1])
    figures = describe_rollout(rollout, 0.1)
    assert figures["engine/logprob_gap"] == pytest.approx(0.5)
    assert "engine/importance_mean" not in figures


def test_an_engine_that_agrees_changes_nothing(make_trainer, change):
    section = change(num_ppo_epochs=2)
    plain, agreeing = make_trainer(section), make_trainer(section)
    episodes = plain.roll_out(plain.next_prompts())
    rollout = plain.score(episodes)
    same = agreeing.score(dataclasses.replace(episodes, engine_logprobs=rollout.logprobs))
    assert torch.equal(same.importance, same.completion_mask.double())
    figures = describe_rollout(same, 0.1)
    expected = {"logprob_gap": 0.0, "importance_mean": 1.0, "importance_capped": 0.0}
    assert {f"engine/{name}": value for name, value in expected.items()}.items() <= figures.items()
    tallies = []
    for trainer, part in ((plain, rollout), (agreeing, same)):
        tally = Average()
        trainer.update(part, tally)
        tallies.append(tally.means(trainer.workers))
    assert tallies[0] == tallies[1]
    for a, b in zip(plain.policy.parameters(), agreeing.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_missing_end_is_known_by_the_token_that_sampling_stops_at(make_trainer, change):
    tokenizer = copy.deepcopy(make_trainer().formatter.tokenizer)
    other = "<|system|>"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}{{ eos_token }}{% endgen",
        "{{ message['content'] }}" + other + "{% endgen",
    )
    formatter = Formatter(tokenizer)
    assert formatter.end_id == tokenizer.convert_tokens_to_ids(other) != tokenizer.eos_token_id
    fields = {"missing_eos_penalty": None, "missing_eos_score": -7.5, "max_new_tokens": 40}
    trainer = make_trainer(change(**fields, temperature=9.0), formatter=formatter)
    rollout = roll(trainer)
    assert rollout.ended.any()
    assert not rollout.ended.all()
    for row in range(len(rollout)):
        real = rollout.ids[row][rollout.attention_mask[row]]
        assert bool(rollout.ended[row]) == (int(real[-1]) == formatter.end_id)
        raw = trainer.reward.model(input_ids=real[None]).logits.item() - 0.25
        expected = raw if rollout.ended[row] else -7.5
        assert rollout.scores[row].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "figure"),
    [("advantages", "loss/policy"), ("returns", "loss/value"), ("values", "loss/value")],
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_any_step(make_trainer, field, figure, bad):
    trainer = make_trainer()
    rollout = roll(trainer)
    models = trainer.policy, trainer.value_model
    before = [weight.clone() for model in models for weight in model.parameters()]
    column = getattr(rollout, field).clone()
    column[0, 0] = bad
    with pytest.raises(SteerlineError, match=rf"{figure} of iteration 1 must be finite, got "):
        trainer.train_on(dataclasses.replace(rollout, **{field: column}), 0, Average())
    after = [weight for model in models for weight in model.parameters()]
    for weight, kept in zip(after, before, strict=True):
        assert torch.equal(weight, kept)


def test_a_gradient_that_is_not_finite_stops_before_any_step(make_trainer):
    trainer = make_trainer()
    rollout = roll(trainer)
    before = [weight.clone() for weight in trainer.policy.parameters()]
    weight = next(trainer.value_model.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(SteerlineError, match=r"grad_norm/value of iteration 1 must be finite"):
        trainer.train_on(rollout, 0, Average())
    for weight, kept in zip(trainer.policy.parameters(), before, strict=True):
        assert torch.equal(weight, kept)


def test_scores_that_are_not_finite_stop_the_iteration(make_trainer):
    trainer = make_trainer()
    trainer.step()
    with torch.no_grad():
        trainer.reward.model.score.weight.fill_(float("nan"))
    with pytest.raises(SteerlineError, match=r"must give one finite number .* got nan"):
        trainer.step()
    assert trainer.iteration == 1


def test_sizes_must_divide_over_processes(make_trainer, monkeypatch):
    monkeypatch.setattr(Workers, "world_size", 3)
    with pytest.raises(ConfigError, match="multiple of the 3 processes, got 4"):
        make_trainer()


def test_a_prompt_without_room_is_refused(make_trainer):
    with pytest.raises(DataError, match=r"ppo\.prompts: a prompt must have at most 56 tokens"):
        make_trainer(prompts=[Prompt.from_text("cat dog fox " * 30)])


def test_a_tokenizer_that_pads_with_its_end_changes_no_number(make_trainer, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    plain, padded = make_trainer(), make_trainer(formatter=Formatter(tokenizer))
    assert padded.formatter.pad_id not in (plain.formatter.pad_id, tokenizer.eos_token_id)
    for _ in range(2):
        figures, expected = padded.step(), plain.step()
        assert figures.keys() == expected.keys()
        for key in figures:
            assert key.startswith("perf/") or figures[key] == expected[key]


def by_function(function, weight=1.0, name="f"):
    reward = FunctionReward(function, Workers(), name=name, where="ppo.rewards[0].function")
    return WeightedSum([(weight, reward)], "ppo.rewards")


def test_a_function_is_given_the_prompts_and_the_texts_as_they_were_sampled(
    make_trainer, tiny_formatter
):
    seen = []

    def function(prompts, completions):
        seen.append((prompts, completions))
        return [0.0] * len(prompts)

    trainer = make_trainer(reward=by_function(function))
    taken = trainer.next_prompts()
    sampled = sample_completions(
        trainer.policy,
        tiny_formatter,
        [trainer.prompts[i] for i in taken],
        trainer.sampler.decoding,
        seed=5,
        step=0,
        sample_index=list(range(8)),
    )
    roll(trainer)
    assert seen == [([trainer.prompts[i] for i in taken], [sample.text for sample in sampled])]


def test_the_score_is_the_weighted_sum_less_the_penalty_and_each_reward_is_logged(
    make_trainer, change, reward_folder, tiny_formatter
):
    def length(prompts, completions):
        assert prompts
        return [float(len(text)) for text in completions]

    model = ModelReward(
        load_reward_model(reward_folder, torch.float64),
        Workers(),
        name="rm",
        where="ppo.rewards[1].stage",
        batch_size=3,
    )
    counted = FunctionReward(length, Workers(), name="length", where="ppo.rewards[0].function")
    together = WeightedSum([(0.25, counted), (2.0, model)], "ppo.rewards")
    section = change(missing_eos_penalty=3.0, max_new_tokens=40, temperature=9.0)
    trainer = make_trainer(section, reward=together)
    rollout = roll(trainer)
    assert 0 < rollout.ended.sum() < len(rollout)
    texts = [
        tiny_formatter.decode(ids[mask].tolist())
        for ids, mask in zip(rollout.completions, rollout.completion_mask, strict=True)
    ]
    lengths = torch.tensor([float(len(text)) for text in texts], dtype=torch.float64)
    alone = make_trainer(dataclasses.replace(section, missing_eos_penalty=None), reward=model)
    scores = roll(alone).scores
    expected = 0.25 * lengths + 2 * scores - 3 * (~rollout.ended).double()
    assert torch.allclose(rollout.scores, expected, rtol=0, atol=1e-9)
    figures = describe_components(trainer.reward.names, rollout.components)
    assert figures["reward/length"] == pytest.approx(lengths.mean().item())
    assert figures["reward/length_std"] == pytest.approx(lengths.std(correction=0).item())
    assert figures["reward/rm"] == pytest.approx(scores.mean().item())
    assert [key for key in figures if key.startswith("reward/")] == [
        "reward/length",
        "reward/length_std",
        "reward/rm",
        "reward/rm_std",
    ]


def test_a_bad_reward_stops_before_the_step(make_trainer):
    trainer = make_trainer(reward=by_function(lambda _, texts: [float("nan")] * len(texts)))
    before = [w.clone() for m in (trainer.policy, trainer.value_model) for w in m.parameters()]
    with pytest.raises(RewardError, match="got nan at prompt"):
        trainer.step()
    after = [w for m in (trainer.policy, trainer.value_model) for w in m.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert trainer.iteration == 0


def test_a_function_alone_is_learned_from_a_value_model_of_zeros(
    make_trainer, change, policy_folder
):
    def spaces(prompts, completions):
        assert prompts
        return [float(text.count(" ")) for text in completions]

    section = change(
        episodes=8 * 40,
        num_ppo_epochs=2,
        kl_coef=0.0,
        learning_rate=2e-3,
        ema_decay=None,
        missing_eos_penalty=None,
    )
    value = zero_value_model(policy_folder, torch.float64)
    trainer = make_trainer(section, reward=by_function(spaces), value=value)
    history = [trainer.step() for _ in range(section.iterations)]
    assert history[0]["value/mean"] == 0
    early = sum(figures["reward/f"] for figures in history[:5]) / 5
    late = sum(figures["reward/f"] for figures in history[-5:]) / 5
    assert late > early + history[0]["reward/f_std"]


def test_offloaded_models_are_on_the_device_to_score_alone(make_trainer, change, timeless):
    trainer, plain = make_trainer(change(offload=True)), make_trainer()
    moved = []
    for name, model in (("reference", trainer.ref_policy), ("reward", trainer.reward.model)):
        own = model.to
        model.to = lambda to, name=name, own=own: moved.append((name, str(to))) or own(to)
    calls = []
    trainer.ref_policy.register_forward_hook(lambda *_: calls.append(len(moved)))
    device = str(trainer.workers.device)
    figures = trainer.step()
    there = [("reference", device), ("reward", device)]
    assert moved == [*there, ("reference", "cpu"), ("reward", "cpu")]
    assert set(calls) == {2}
    assert timeless(figures) == timeless(plain.step())
    assert trainer.idle == [trainer.ref_policy, trainer.reward.model]
    assert plain.idle == []
