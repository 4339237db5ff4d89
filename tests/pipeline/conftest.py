"""A small PPO training, for the tests of its parts, and a policy that can write for long."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest

from pipeline.config.ppo import PpoSection
from pipeline.records import Prompt

TEXTS = (
    *("Hello Mia", "Where does Tom live?", "List three animals", "cat"),
    *("Say 12", "Mia has a cat.", "The dog", "Tom has 12 dogs."),
)
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


@pytest.fixture(scope="session")
def change() -> Callable[..., PpoSection]:
    """Return a function that makes a section with departures from that of the small training."""

    def make(**fields: object) -> PpoSection:
        return dataclasses.replace(SECTION, **fields)

    return make


@pytest.fixture(scope="session")
def make_trainer(make_policy, reward_folder, tiny_formatter):
    """Return a function that makes a trainer with fresh models."""
    from pipeline.distributed import DTYPES, Workers
    from pipeline.models import load_reward_model, new_value_model
    from pipeline.ppo import Models, PPOTrainer
    from pipeline.rewards import ModelReward

    def make(
        section=SECTION,
        prompts=None,
        ptx=None,
        policy_seed=0,
        formatter=tiny_formatter,
        reward=None,
        value=None,
        engine=None,
    ):
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
            average=None if section.ema_decay is None else copy.deepcopy(policy),
        )
        return PPOTrainer(
            section,
            workers,
            formatter,
            models,
            prompts=[Prompt.from_text(text) for text in TEXTS] if prompts is None else prompts,
            ptx_sequences=ptx,
            seed=5,
            engine=engine,
        )

    return make


@pytest.fixture(scope="session")
def ptx_text(tiny_formatter):
    """Return a function that packs pretraining text, [rows, 12]."""
    import torch

    def make(rows: int = 16, length: int = 12) -> torch.Tensor:
        ids = tiny_formatter.document_ids("Mia lives in the forest. Tom has a dog. " * 20)
        return torch.tensor(ids[: rows * length]).view(rows, length)

    return make


def drop_times(figures: dict) -> dict:
    """Return figures without times, which no two runs share."""
    return {name: value for name, value in figures.items() if not name.startswith("perf/")}


@pytest.fixture(scope="session")
def timeless() -> Callable[[dict], dict]:
    """Return a function that leaves out what no two runs share."""
    return drop_times


@pytest.fixture(scope="session")
def long_folder(make_policy, tiny_tokenizer, tmp_path_factory):
    """Return the folder of a policy with room for long answers, float32."""
    import torch

    from pipeline.models import save_model

    folder = tmp_path_factory.mktemp("long") / "model"
    model = make_policy(0, torch.float32, context=512)
    save_model(folder, model, tiny_tokenizer, "# For tests\n")
    return folder


@pytest.fixture(scope="session")
def memory_for(long_folder):
    """Return a function that tells what that policy takes, with answers of some decodings."""
    import torch

    from pipeline.model_finding import find_model
    from pipeline.served_models import load_model
    from pipeline.serving_memory import room_for
    from tests.pipeline.offices import ask_of

    need = find_model("policy", str(long_folder))
    policy = load_model(need, torch.device("cpu"))

    def tell(*decodings):
        requests = [ask_of(long_folder, decoding) for decoding in decodings]
        return need.size + sum(room_for(request, [policy]) for request in requests)

    return tell
