"""Rollouts by vLLM.

TRL's own ``VLLMGeneration`` runs here; only vLLM below it is a stand-in, which takes what TRL
hands to vLLM (the ``LLM``, or the server's client) and answers in its shapes, with a model of its
own whose weights change by nothing but what it is sent.
"""

import inspect
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from pipeline.config.engine import EngineSection
from pipeline.config.hydra import HydraSection
from pipeline.config.training import LoraSection
from pipeline.distributed import Workers
from pipeline.errors import DataError, EngineError
from pipeline.hydra_models import make_hydra
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.vllm_engine import VllmEngine

PROMPTS = [Prompt.from_text(text) for text in ("cat", "Where does Tom live?", "Say 12", "cat dog")]


class OtherSide:
    """Hold a model that learns of the policy's weights only by being sent them."""

    made: ClassVar[dict[str, "OtherSide"]] = {}

    def __init__(self, folder):
        self.made[type(self).__name__] = self
        self.model = load_policy(Path(folder), torch.float64).eval()
        self.places = dict(self.model.named_parameters())
        self.generator = torch.Generator().manual_seed(0)
        self.received, self.asked, self.resets = [], [], 0

    def load_weights(self, weights):
        for name, weight in weights:
            assert weight.shape == self.places[name].shape
            self.places[name].data.copy_(weight)
            self.received.append(name)

    def reset_prefix_cache(self):
        self.resets += 1

    @torch.no_grad()
    def draw(self, prompt, temperature, max_tokens, stop_token_ids):
        """Return tokens and their log-probabilities, from whole forward passes."""
        self.asked.append(list(prompt))
        ids, logprobs = [], []
        while len(ids) < max_tokens and not set(ids) & set(stop_token_ids):
            logits = self.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1]
            found = (logits / temperature).log_softmax(-1)
            token = int(torch.multinomial(found.exp(), 1, generator=self.generator))
            ids.append(token)
            logprobs.append(float(found[token]))
        return ids, logprobs


class FakeLLM(OtherSide):
    """Be ``vllm.LLM`` as far as TRL's colocated mode uses it."""

    def __init__(self, model, **settings):
        super().__init__(model)
        self.settings = settings
        runner = SimpleNamespace(model=self)
        worker = SimpleNamespace(model_runner=runner)
        executor = SimpleNamespace(driver_worker=worker)
        self.llm_engine = SimpleNamespace(model_executor=executor)

    def generate(self, prompts, sampling_params, use_tqdm):
        assert not use_tqdm
        assert sampling_params.pop("n") == 1
        assert sampling_params.pop("ignore_eos") is True
        assert sampling_params.pop("logprobs") == 0
        plain = {"repetition_penalty": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        assert {name: sampling_params.pop(name) for name in plain} == plain
        answers = []
        for prompt in prompts:
            ids, logprobs = self.draw(prompt["prompt_token_ids"], **sampling_params)
            places = [
                {token: SimpleNamespace(rank=1, logprob=logprob)}
                for token, logprob in zip(ids, logprobs, strict=True)
            ]
            completion = SimpleNamespace(token_ids=tuple(ids), logprobs=places)
            answers.append(
                SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[completion])
            )
        return answers


class FakeClient(OtherSide):
    """Be TRL's ``VLLMClient`` with a server behind it."""

    folder = None
    logprobs_mode = "processed_logprobs"
    failure: Exception | None = None

    def __init__(self, base_url, group_port, connection_timeout):
        if self.failure is not None:
            raise self.failure
        super().__init__(self.folder)
        self.address = (base_url, group_port, connection_timeout)

    def init_communicator(self, device):
        self.device = device

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": self.logprobs_mode}}

    def update_named_params(self, metadata, named_params):
        sent = list(named_params)
        assert metadata == [(name, "float64", list(weight.shape)) for name, weight in sent]
        self.load_weights(sent)

    def generate(self, prompts, features, n, temperature, max_tokens, generation_kwargs, **rest):
        assert (features, n, rest["logprobs"]) == (None, 1, 0)
        stop = generation_kwargs["stop_token_ids"]
        rows = [self.draw(prompt, temperature, max_tokens, stop) for prompt in prompts]
        return {
            "prompt_ids": prompts,
            "completion_ids": [ids for ids, _ in rows],
            "logprobs": [[[logprob] for logprob in logprobs] for _, logprobs in rows],
            "logprob_token_ids": [[[token] for token in ids] for ids, _ in rows],
        }


@pytest.fixture
def fake_vllm(monkeypatch, policy_folder):
    """Put the stand-ins where TRL would find vLLM."""
    from trl.generation import vllm_generation

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", FakeLLM, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", dict, raising=False)
    real = vllm_generation.VLLMClient
    monkeypatch.setattr(vllm_generation, "VLLMClient", FakeClient)
    monkeypatch.setattr(FakeClient, "folder", policy_folder)
    monkeypatch.setattr(OtherSide, "made", {})
    return real


@pytest.fixture
def open_engine(fake_vllm, change, tiny_formatter, policy_folder):
    assert fake_vllm

    def make(policy, workers=None, engine=None, **fields):
        section = change(engine=EngineSection(kind="vllm", **(engine or {})), **fields)
        start = policy_folder
        return VllmEngine(
            section, workers or Workers("float64"), tiny_formatter, policy, start, PROMPTS
        )

    return make


@pytest.fixture
def encoded(tiny_formatter):
    return [tiny_formatter.prompt_ids(prompt.messages) for prompt in PROMPTS]


def other_side(mode):
    return OtherSide.made["FakeLLM" if mode == "colocate" else "FakeClient"]


def test_the_stand_in_takes_what_trls_client_takes(fake_vllm):
    for name in ("__init__", "init_communicator", "get_server_info", "update_named_params"):
        theirs = inspect.signature(getattr(fake_vllm, name)).parameters
        ours = inspect.signature(getattr(FakeClient, name)).parameters
        assert list(ours) == [key for key in theirs if key in ours], name
    generate = inspect.signature(fake_vllm.generate).parameters
    assert {"prompts", "features", "n", "temperature", "max_tokens"} <= generate.keys()
    assert {"logprobs", "generation_kwargs"} <= generate.keys()
    assert callable(fake_vllm.reset_prefix_cache)


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_a_completion_is_of_the_policys_present_weights(
    open_engine, make_policy, encoded, policy_folder, mode
):
    policy = make_policy(3)
    engine = open_engine(policy, engine={"mode": mode}, temperature=0.7)
    made = other_side(mode)
    drawn = engine.sample(policy, encoded, ["unread"] * 4)
    assert sorted(made.received) == sorted(name for name, _ in policy.named_parameters())
    assert made.asked == encoded
    assert made.resets == 1
    reference = OtherSide(policy_folder)
    reference.load_weights(policy.named_parameters())
    for before, completion in zip(encoded, drawn, strict=True):
        ids, logprobs = reference.draw(before, 0.7, 8, [engine._filler[0]])
        assert completion.ids == ids
        assert completion.logprobs == logprobs
    assert len(engine.sample(policy, encoded[:1], ["unread"])) == 1
    assert len(made.received) == 2 * len(list(policy.named_parameters()))


def test_settings_reach_vllm(open_engine, make_policy, encoded):
    engine = {"gpu_memory_utilization": 0.45}
    open_engine(make_policy(), engine=engine, max_new_tokens=11)
    settings = other_side("colocate").settings
    assert settings["gpu_memory_utilization"] == 0.45
    assert settings["tensor_parallel_size"] == 1
    assert settings["enable_sleep_mode"] is False
    assert settings["max_model_len"] == max(len(ids) for ids in encoded) + 11
    assert settings["logprobs_mode"] == "processed_logprobs"
    server = {"mode": "server", "server": "http://far:81", "server_timeout": 2.5, "group_port": 7}
    open_engine(make_policy(), engine=server)
    assert other_side("server").address == ("http://far:81", 7, 2.5)


def test_a_prompt_without_room_is_refused_before_vllm_starts(open_engine, make_policy):
    with pytest.raises(DataError, match=r"ppo\.prompts: a prompt must have at most 4 tokens"):
        open_engine(make_policy(), max_new_tokens=60)
    assert not OtherSide.made


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_adapters_are_sent_merged(open_engine, policy_folder, encoded, value):
    hydra = make_hydra(
        load_policy(policy_folder, torch.float64),
        HydraSection(lora=LoraSection(rank=4, target_modules=["q_proj", "down_proj"]), value=value),
        start=policy_folder,
        reward=None,
        averaged=True,
        seed=5,
    )
    for weight in hydra.policy.parameters():
        nn.init.normal_(weight, std=0.3)
    engine = open_engine(hydra.policy)
    engine.sample(hydra.policy, encoded, ["unread"] * 4)
    made = other_side("colocate")
    assert sorted(made.received) == sorted(made.places)
    ids = torch.tensor([encoded[1]])
    with torch.no_grad():
        expected, computed = hydra.policy(input_ids=ids).logits, made.model(input_ids=ids).logits
        start = hydra.ref_policy(input_ids=ids).logits
    # HF's RMSNorm computes in float32, whatever the weights' type.
    assert torch.allclose(computed, expected, atol=1e-5)
    assert not torch.allclose(computed, start, atol=1e-1)
    assert all(weight.requires_grad for weight in hydra.policy.parameters())


class Two(Workers):
    """Be one of two processes; how many prompts the other has is given."""

    world_size = 2

    def __init__(self, sizes):
        super().__init__("float64")
        self.sizes = sizes

    def gather_objects(self, items):
        assert items == [self.sizes[0]]
        return self.sizes


@pytest.mark.parametrize("sizes", [(2, 3), (0, 1), (3, 2), (0, 0)])
def test_every_process_asks_alike_many(open_engine, make_policy, encoded, sizes):
    policy = make_policy()
    engine = open_engine(policy, workers=Two(list(sizes)))
    mine = encoded[: sizes[0]]
    drawn = engine.sample(policy, mine, ["unread"] * len(mine))
    made = other_side("colocate")
    assert len(drawn) == len(mine)
    assert len(made.asked) == max(1, *sizes)
    assert made.asked[: len(mine)] == mine


def test_a_token_without_a_number_is_refused(open_engine, make_policy, encoded, monkeypatch):
    policy = make_policy()
    engine = open_engine(policy)
    monkeypatch.setattr(FakeLLM, "draw", lambda *_, **__: ([7, 8, 9], [-0.5, math.nan, -0.5]))
    with pytest.raises(EngineError, match=r"ppo\.engine: .* each of 3 tokens .* got 2"):
        engine.sample(policy, encoded, ["unread"] * 4)


def test_a_server_out_of_reach_or_set_up_otherwise_is_refused(
    open_engine, make_policy, monkeypatch
):
    monkeypatch.setattr(FakeClient, "logprobs_mode", "raw_logprobs")
    with pytest.raises(EngineError, match=r"runs with --logprobs-mode raw_logprobs\. Start it"):
        open_engine(make_policy(), engine={"mode": "server"})
    monkeypatch.setattr(FakeClient, "failure", ConnectionError("can't be reached\nat all"))
    said = r"^ppo\.engine\.server: http://localhost:8000 is no use \(can't be reached\)\. Start it"
    with pytest.raises(EngineError, match=said):
        open_engine(make_policy(), engine={"mode": "server"})


def test_a_fault_of_a_colocated_engine_keeps_its_traceback(open_engine, make_policy, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FakeLLM, "__init__", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        open_engine(make_policy())


def test_ppo_trains_on_vllms_rollouts_and_follows_the_policy(
    make_trainer, make_policy, open_engine, change
):
    trainer = make_trainer(change(learning_rate=1e-2), engine=open_engine(make_policy(7)))
    for _ in range(3):
        figures = trainer.step()
        assert figures["engine/logprob_gap"] == pytest.approx(0, abs=1e-6)
        assert figures["engine/importance_capped"] == 0
    assert figures["objective/kl_k3"] > 1e-4, "the policy has not moved"
    # Weights that do not arrive leave a gap.
    other_side("colocate").load_weights = list
    trainer.step()
    assert trainer.step()["engine/logprob_gap"] > 1e-3
