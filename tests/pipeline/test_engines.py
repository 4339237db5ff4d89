"""Engines of rollouts, and the laws of what their log-probabilities do."""

import dataclasses

import pytest
import torch

from pipeline.config.engine import EngineSection
from pipeline.config.sampling import DecodingSection
from pipeline.distributed import DTYPES, Workers
from pipeline.engines import HfEngine, require_engine
from pipeline.errors import ConfigError
from pipeline.rollout_figures import describe_rollout
from pipeline.sampling import SampledTokens

TEXTS = ("cat", "Where does Tom live?", "Say 12", "cat dog", "List three animals") * 4
KEYS = [f"key {row}" for row in range(len(TEXTS))]
# So hot that some completions end early.
DECODING = DecodingSection(max_new_tokens=40, temperature=9.0)


@pytest.fixture
def encoded(tiny_formatter):
    return [tiny_formatter.prompt_ids([{"role": "user", "content": text}]) for text in TEXTS]


@pytest.fixture
def make_engine(tiny_formatter):
    def make(decoding=DECODING, batch_size=3, with_logprobs=True):
        workers = Workers("float64")
        return HfEngine(workers, tiny_formatter, decoding, batch_size, with_logprobs)

    return make


class Stale:
    """Draw with the weights of another policy than the one that is asked about."""

    def __init__(self, engine, policy):
        self.engine, self.policy, self.decoding = engine, policy, engine.decoding

    def sample(self, _, prompts, keys):
        return self.engine.sample(self.policy, prompts, keys)


@torch.no_grad()
def teacher_forced(policy, before, completion, temperature):
    logits = policy(input_ids=torch.tensor([[*before, *completion]])).logits[0, len(before) - 1 :]
    logprobs = (logits[:-1] / temperature).log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(completion)[:, None])[:, 0]


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_recorded_logprobs_are_teacher_forced_logprobs(
    make_policy, make_engine, encoded, batch_size
):
    policy = make_policy()
    drawn = make_engine(batch_size=batch_size).sample(policy, encoded, KEYS)
    assert len({len(completion.ids) for completion in drawn}) > 1, "no row finished early"
    for before, completion in zip(encoded, drawn, strict=True):
        expected = teacher_forced(policy, before, completion.ids, DECODING.temperature)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-6)


def test_recorded_logprobs_are_of_the_truncated_distribution(make_policy, make_engine, encoded):
    policy = make_policy()
    greedy = dataclasses.replace(DECODING, top_k=1)
    for completion in make_engine(greedy).sample(policy, encoded, KEYS):
        assert completion.logprobs == [0.0] * len(completion.ids)


def test_recording_changes_no_token(make_policy, make_engine, encoded):
    policy = make_policy()
    plain = make_engine(with_logprobs=False).sample(policy, encoded, KEYS)
    recorded = make_engine().sample(policy, encoded, KEYS)
    assert [SampledTokens(completion.ids) for completion in recorded] == plain
    assert make_engine().sample(policy, [], []) == []


def test_generation_and_training_give_one_distribution_in_float64(make_trainer, change, timeless):
    recording = change(engine=EngineSection(logprobs=True), num_ppo_epochs=2)
    plain, recorded = make_trainer(change(num_ppo_epochs=2)), make_trainer(recording)
    for _ in range(2):
        expected, figures = timeless(plain.step()), timeless(recorded.step())
        assert figures.pop("engine/logprob_gap") == pytest.approx(0, abs=1e-9)
        assert figures.pop("engine/importance_mean") == pytest.approx(1, abs=1e-9)
        assert figures.pop("engine/importance_capped") == 0
        assert figures == pytest.approx(expected, abs=1e-6)
    assert not any(name.startswith("engine/") for name in expected)


def test_bf16_leaves_a_gap_between_generation_and_training(make_trainer, change):
    section = change(engine=EngineSection(logprobs=True), precision="bf16")
    figures = make_trainer(section).step()
    # Eight bits of mantissa: logits near 4 are rounded to 1/64.
    assert 1e-5 < figures["engine/logprob_gap"] < 0.1


@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
def test_importance_weights_have_the_type_of_the_policys_logprobs(make_trainer, change, precision):
    section = change(engine=EngineSection(logprobs=True), precision=precision)
    trainer = make_trainer(section)
    rollout = trainer.score(trainer.roll_out(trainer.next_prompts()))
    assert rollout.importance.dtype == rollout.logprobs.dtype == DTYPES[precision]


def test_stale_weights_leave_a_gap_that_the_weights_make_up_for(
    make_trainer, make_policy, make_engine, change
):
    section = change(importance_cap=1.5)
    old = make_policy(0)
    stale = Stale(make_engine(section.decoding), old)
    trainer = make_trainer(section, policy_seed=3, engine=stale)
    rollout = trainer.score(trainer.roll_out(trainer.next_prompts()))
    weights, gaps = [], []
    for row in range(len(rollout)):
        ids = rollout.ids[row][rollout.attention_mask[row]].tolist()
        count = int(rollout.completion_mask[row].sum())
        policies = (
            teacher_forced(p, ids[:-count], ids[-count:], 1.0) for p in (trainer.policy, old)
        )
        change_of_row = torch.sub(*policies)
        gaps.append(change_of_row.abs())
        weights.append(change_of_row.exp().clamp(max=1.5))
    real = rollout.completion_mask
    assert torch.allclose(rollout.importance[real], torch.cat(weights), atol=1e-6)
    figures = describe_rollout(rollout, trainer.kl.coef)
    assert figures["engine/logprob_gap"] == pytest.approx(float(torch.cat(gaps).mean()), abs=1e-6)
    assert figures["engine/logprob_gap"] > 0.1
    assert 0 < figures["engine/importance_capped"] < 1


def test_evaluations_and_samples_keep_our_own_engine(
    make_trainer, make_policy, make_engine, change
):
    stale = Stale(make_engine(change().decoding), make_policy(0))
    ours, theirs = make_trainer(policy_seed=3), make_trainer(policy_seed=3, engine=stale)
    prompts = ours.prompts
    assert theirs.sampler.sample(theirs.policy, prompts) == ours.sampler.sample(
        ours.policy, prompts
    )
    drawn = [trainer.roll_out(range(8)) for trainer in (ours, theirs)]
    assert not torch.equal(drawn[0].ids, drawn[1].ids)


class Three(Workers):
    world_size = 3


def test_vllm_without_vllm_or_a_gpu_is_refused_in_one_line(monkeypatch):
    workers, section = Workers(), EngineSection(kind="vllm")
    said = (
        r"^ppo@x\.engine\.kind: vllm needs vllm and a GPU\. "
        r"Install steerline\[vllm\], or set kind: hf\.$"
    )
    for installed, cpu in ((None, False), (object(), True)):
        monkeypatch.setattr("importlib.util.find_spec", lambda _, found=installed: found)
        monkeypatch.setattr("pipeline.engines.use_cpu", lambda cpu=cpu: cpu)
        with pytest.raises(ConfigError, match=said):
            require_engine(section, workers, "ppo@x")
        require_engine(EngineSection(), workers, "ppo@x")
    monkeypatch.setattr("pipeline.engines.use_cpu", lambda: False)
    require_engine(section, workers, "ppo@x")
    spread = dataclasses.replace(section, tensor_parallel_size=2)
    with pytest.raises(ConfigError, match=r"must divide the 3 processes, got 2"):
        require_engine(spread, Three(), "ppo")
