import copy
import dataclasses
import math

import pytest
import torch

from pipeline.config.ppo import PpoSection
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError, DataError, RewardError, SteerlineError
from pipeline.formatting import Formatter
from pipeline.masked import masked_sum
from pipeline.models import load_reward_model, new_value_model, zero_value_model
from pipeline.optimizing import Average, warm_up
from pipeline.ppo import Models, PPOTrainer
from pipeline.records import Prompt
from pipeline.rewards import FunctionReward, ModelReward, WeightedSum
from pipeline.sampling import sample_completions

PROMPTS = [
    Prompt.from_text(text)
    for text in (
        "Hello Mia",
        "Where does Tom live?",
        "List three animals",
        "cat",
        "Say 12",
        "Mia has a cat.",
        "The dog",
        "Tom has 12 dogs.",
    )
]
SECTION = PpoSection(
    episodes=32,
    rollout_batch_size=8,
    minibatch_size=4,
    micro_batch_size=4,
    max_new_tokens=8,
    learning_rate=1e-3,
    value_learning_rate=1e-3,
    warmup_iterations=0,
    kl_coef=0.1,
    ptx_coef=0.0,
    ema_decay=0.5,
    precision="float64",
)


@pytest.fixture
def make_trainer(make_policy, reward_folder, tiny_formatter):
    def make(section=SECTION, prompts=PROMPTS, ptx=None, policy_seed=0, reward=None, value=None):
        dtype, workers = DTYPES[section.precision], Workers(section.precision)
        policy = make_policy(policy_seed, dtype)
        models = Models(
            policy=policy,
            ref_policy=make_policy(0, dtype),
            reward=reward
            or ModelReward(
                load_reward_model(reward_folder, dtype),
                workers,
                name="reward",
                where="ppo.reward",
                batch_size=section.rollout_micro_batch_size,
            ),
            value_model=value or new_value_model(reward_folder, dtype),
            average=copy.deepcopy(policy),
        )
        return PPOTrainer(
            section,
            workers,
            tiny_formatter,
            models,
            prompts=prompts,
            ptx_sequences=ptx,
            seed=5,
        )

    return make


def ptx_text(formatter, rows=16, length=12):
    ids = formatter.document_ids("Mia lives in the forest. Tom has a dog. " * 20)
    return torch.tensor(ids[: rows * length]).view(rows, length)


def change(**fields):
    return dataclasses.replace(SECTION, **fields)


def drop_times(figures):
    return {name: value for name, value in figures.items() if not name.startswith("perf/")}


def roll(trainer):
    return trainer.score(trainer.roll_out(trainer.next_prompts()))


def test_bf16_computes_under_autocast_and_keeps_float32(make_trainer):
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


def test_at_the_start_policy_and_reference_are_one(make_trainer):
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


def test_the_first_gradient_is_reinforces(make_trainer):
    trainer = make_trainer(change(whiten_advantages=False, minibatch_size=8))
    rollout = roll(trainer)
    trainer.ppo_loss(rollout, Average()).backward()
    computed = {name: w.grad.clone() for name, w in trainer.policy.named_parameters()}
    trainer.policy.zero_grad()
    logits = trainer.completion_logits(trainer.policy, rollout)
    logprobs = logits.log_softmax(-1).gather(-1, rollout.completions[..., None]).squeeze(-1)
    masked_sum(-logprobs * rollout.advantages, rollout.completion_mask).backward()
    for name, weight in trainer.policy.named_parameters():
        assert torch.allclose(computed[name], weight.grad, atol=1e-9), name


def test_rollout_logprobs_are_teacher_forced_logprobs(make_trainer):
    trainer = make_trainer()
    rollout = roll(trainer)
    for row in range(len(rollout)):
        real = rollout.ids[row][rollout.attention_mask[row]]
        count = int(rollout.completion_mask[row].sum())
        logits = trainer.policy(input_ids=real[None]).logits[0]
        expected = logits.log_softmax(-1)[torch.arange(len(real) - 1), real[1:]][-count:]
        assert torch.allclose(rollout.logprobs[row, :count], expected, atol=1e-6)


def test_scores_are_the_reward_models_at_the_last_token_less_offset_and_penalty(make_trainer):
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
def test_micro_batches_change_no_figure_and_no_weight(make_trainer, tiny_formatter, fields):
    text = ptx_text(tiny_formatter)
    base = change(ptx_coef=2.0, ptx_ratio=1.0, num_ppo_epochs=2)
    whole = make_trainer(base, ptx=text)
    parts = make_trainer(dataclasses.replace(base, **fields), ptx=text)
    for _ in range(2):
        expected, computed = drop_times(whole.step()), drop_times(parts.step())
        assert computed == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for a, b in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_padding_changes_no_loss(make_trainer):
    trainer = make_trainer()
    rollout = roll(trainer)
    padded = {
        name: torch.nn.functional.pad(tensor, (0, 3))
        if torch.is_tensor(tensor) and tensor.dim() == 2
        else tensor
        for name, tensor in vars(rollout).items()
    }
    padded["ids"] = torch.nn.functional.pad(padded["ids"], (4, 0))
    padded["attention_mask"] = torch.nn.functional.pad(padded["attention_mask"], (4, 0))
    wide = type(rollout)(**padded)
    expected = trainer.ppo_loss(rollout, Average()).item()
    assert trainer.ppo_loss(wide, Average()).item() == pytest.approx(expected, abs=1e-6)
    assert trainer.ppo_loss(wide.trimmed(), Average()).item() == pytest.approx(expected, abs=1e-6)


def test_ptx_adds_gamma_times_the_pretraining_gradient(make_trainer, tiny_formatter):
    text = ptx_text(tiny_formatter, rows=4)
    section = change(ptx_coef=3.0, ptx_ratio=1.0)
    trainer = make_trainer(section, ptx=text)
    trainer.add_pretraining_gradient(text, 0, Average())
    added = [weight.grad.clone() for weight in trainer.policy.parameters()]
    trainer.policy.zero_grad()
    loss = trainer.policy(input_ids=text, labels=text).loss
    (3.0 * loss).backward()
    for computed, weight in zip(added, trainer.policy.parameters(), strict=True):
        # Transformers' own loss is computed in float32.
        assert torch.allclose(computed, weight.grad, atol=1e-5)


def test_ptx_gradients_accumulate_into_the_same_step(make_trainer, tiny_formatter):
    text = ptx_text(tiny_formatter, rows=4)
    trainer = make_trainer(change(ptx_coef=3.0, ptx_ratio=1.0), ptx=text)
    first = trainer.policy.parameters().__next__()
    first.grad = torch.ones_like(first)
    trainer.add_pretraining_gradient(text, 0, Average())
    both = first.grad.clone()
    trainer.policy.zero_grad()
    trainer.add_pretraining_gradient(text, 0, Average())
    assert torch.allclose(both, first.grad + 1, atol=1e-12)


def test_pretraining_text_becomes_likelier_with_ptx_only(make_trainer, tiny_formatter):
    text = ptx_text(tiny_formatter)

    def nll(trainer):
        with torch.no_grad():
            return float(trainer.policy(input_ids=text, labels=text).loss)

    plain = make_trainer(policy_seed=0)
    mixed = make_trainer(change(ptx_coef=10.0, ptx_ratio=2.0), ptx=text)
    before = nll(plain)
    for _ in range(4):
        plain.step()
        mixed.step()
    assert nll(mixed) < before - 0.5
    assert nll(mixed) < nll(plain) - 0.5


def test_the_score_rises_within_a_kl_bound(make_trainer):
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


def test_the_average_follows_the_policy(make_trainer):
    trainer = make_trainer(change(ema_decay=0.75))
    before = [weight.clone() for weight in trainer.average.parameters()]
    trainer.step()
    for start, slow, fast in zip(
        before, trainer.average.parameters(), trainer.policy.parameters(), strict=True
    ):
        assert torch.allclose(slow, 0.75 * start + 0.25 * fast, atol=1e-12)


def test_a_resumed_training_is_bit_identical(make_trainer, tiny_formatter, tmp_path):
    text = ptx_text(tiny_formatter)
    section = change(ptx_coef=2.0, ptx_ratio=1.0, warmup_iterations=3)
    whole = make_trainer(section, ptx=text)
    expected = [drop_times(whole.step()) for _ in range(4)]
    first = make_trainer(section, ptx=text)
    for _ in range(2):
        first.step()
    first.save_state(tmp_path)
    second = make_trainer(section, ptx=text)
    for name in ("policy", "value_model", "average"):
        # As the stage does: the weights come from the checkpoint's folders.
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    second.load_state(tmp_path)
    assert [drop_times(second.step()) for _ in range(2)] == expected[2:]
    for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_prompts_do_not_repeat_within_an_epoch(make_trainer):
    trainer = make_trainer(change(rollout_batch_size=4, minibatch_size=4))
    first = trainer.next_prompts()
    trainer.iteration = 1
    assert sorted(first + trainer.next_prompts()) == list(range(8))


def test_the_learning_rate_warms_up_from_a_tenth():
    assert warm_up(0, 10) == pytest.approx(0.1)
    assert warm_up(5, 10) == pytest.approx(0.55)
    assert warm_up(10, 10) == warm_up(99, 10) == warm_up(0, 0) == 1


def test_a_gradient_that_is_not_finite_stops_before_the_step(make_trainer):
    trainer = make_trainer()
    rollout = roll(trainer)
    before = [weight.clone() for weight in trainer.policy.parameters()]
    broken = dataclasses.replace(rollout, advantages=rollout.advantages * float("nan"))
    with pytest.raises(SteerlineError, match="gradient of the policy must be finite, got nan"):
        trainer.train_on(broken, 0, Average())
    for weight, kept in zip(trainer.policy.parameters(), before, strict=True):
        assert torch.equal(weight, kept)


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
    plain, padded = make_trainer(), make_trainer()
    padded.formatter = Formatter(tokenizer)
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
        [PROMPTS[i] for i in taken],
        trainer.decoding,
        seed=5,
        step=0,
        sample_index=list(range(8)),
    )
    roll(trainer)
    assert seen == [([PROMPTS[i] for i in taken], [sample.text for sample in sampled])]


def test_the_score_is_the_weighted_sum_less_the_penalty_and_each_reward_is_logged(
    make_trainer, reward_folder, tiny_formatter
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
    figures = trainer.describe(rollout)
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


def test_a_function_alone_is_learned_from_a_value_model_of_zeros(make_trainer, policy_folder):
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
