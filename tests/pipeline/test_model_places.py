from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.model_places import ModelPlace, find_models, find_tokenizer
from pipeline.runs import checkpoint_path
from tests.run_folders import write_stage

POLICY, REWARD = "LlamaForCausalLM", "LlamaForSequenceClassification"


def fake_model(folder: Path, architecture: str = POLICY, *, tokenizer: bool = False) -> Path:
    """Write what looks like a model to whoever only looks at the names of files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "model.safetensors").write_bytes(b"")
    if tokenizer:
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


def fake_adapter(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True)
    tree = {"task_type": "CAUSAL_LM", "base_model_name_or_path": "/base", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(tree))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of a finished ``sft`` and ``reward``, and a ``ppo`` at work."""
    policy = fake_model(tmp_path / "policy", tokenizer=True)
    ranker = fake_model(tmp_path / "ranker", REWARD, tokenizer=True)
    folder = tmp_path / "runs" / "tiny"
    write_stage(folder, "sft", model=policy)
    write_stage(folder, "reward", ["sft"], model=ranker)
    # The reward model stands first, and its tokenizer must not be taken for the policy's.
    write_stage(folder, "ppo", ["reward", "sft"], status="running")
    return folder


def found(run: Path) -> dict[str, ModelPlace]:
    return {place.name: place for place in find_models(run)}


def test_a_checkpoint_of_ppo_takes_the_tokenizer_of_what_it_began_as(run: Path):
    policy = fake_model(checkpoint_path(run / "ppo", 40) / "policy")
    fake_model(checkpoint_path(run / "ppo", 40) / "value", "LlamaForTokenClassification")
    assert list(found(run)) == ["sft", "reward", "ppo.40"]
    place = found(run)["ppo.40"]
    assert place == ModelPlace("tiny", "ppo", 40, "policy", policy, run / "sft" / "model")
    assert (place.id, place.label) == ("tiny/ppo, step 40", "ppo, step 40")
    assert found(run)["sft"].tokenizer is None
    shutil.rmtree(run / "sft" / "model")
    assert list(found(run)) == ["reward"], "what has no tokenizer anywhere cannot be asked"


def test_of_a_checkpoint_with_an_average_that_is_asked(run: Path):
    fake_model(checkpoint_path(run / "ppo", 40) / "policy")
    average = fake_model(checkpoint_path(run / "ppo", 40) / "average")
    assert found(run)["ppo.40"].path == average


def test_a_finished_stages_own_tokenizer_comes_first(run: Path, tmp_path: Path):
    fake_model(checkpoint_path(run / "ppo", 40) / "policy")
    shutil.copytree(tmp_path / "policy", run / "ppo" / "model")
    places = found(run)
    assert list(places) == ["sft", "reward", "ppo", "ppo.40"]
    assert places["ppo.40"].tokenizer == run / "ppo" / "model"


def test_checkpoints_of_pretraining_take_the_tokenizer_that_their_stage_wrote_first(run: Path):
    write_stage(run, "pretrain", status="running")
    step = fake_model(checkpoint_path(run / "pretrain", 500))
    assert "pretrain.500" not in found(run)
    (run / "pretrain" / "tokenizer").mkdir()
    (run / "pretrain" / "tokenizer" / "tokenizer_config.json").write_text("{}")
    place = found(run)["pretrain.500"]
    assert (place.path, place.tokenizer) == (step, run / "pretrain" / "tokenizer")


def test_checkpoints_with_a_tokenizer_have_their_own(run: Path):
    step = fake_model(checkpoint_path(run / "sft", 20), tokenizer=True)
    assert found(run)["sft.20"] == ModelPlace("tiny", "sft", 20, "policy", step)


def test_checkpoints_of_adapters_are_found(run: Path):
    plain = fake_adapter(checkpoint_path(run / "sft", 20))
    fake_adapter(checkpoint_path(run / "ppo", 3) / "policy")
    places = found(run)
    assert places["sft.20"].path == plain
    assert places["ppo.3"].tokenizer == run / "sft" / "model"


@pytest.mark.parametrize("settings", [{"task_type": "SEQ_CLS"}, {"base_model_name_or_path": None}])
def test_adapters_that_could_not_be_loaded_are_not_found(run: Path, settings: dict[str, object]):
    fake_adapter(checkpoint_path(run / "sft", 20), **settings)
    assert "sft.20" not in found(run)


def test_checkpoints_of_reward_models_are_not_found(run: Path):
    fake_model(checkpoint_path(run / "reward", 5), REWARD, tokenizer=True)
    fake_adapter(checkpoint_path(run / "reward", 6))
    assert list(found(run)) == ["sft", "reward"]


def test_the_tokenizer_of_a_path_is_found_from_anywhere(run: Path, monkeypatch: pytest.MonkeyPatch):
    policy = fake_model(checkpoint_path(run / "ppo", 40) / "policy")
    tokenizer = run / "sft" / "model"
    assert find_tokenizer(policy) == find_tokenizer(policy.parent) == tokenizer
    monkeypatch.chdir(policy.parent)
    assert find_tokenizer(Path("policy")) == tokenizer
    assert find_tokenizer(tokenizer) is None, "it has its own"
    assert find_tokenizer(Path("us/tiny")) is None
    (run / "ppo" / "manifest.json").write_text("nonsense")
    assert find_tokenizer(policy) is None
