from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline.errors import ModelError
from pipeline.model_finding import find_model
from pipeline.models import load_policy, load_reward_model


def count(model):
    return sum(weight.numel() for weight in model.parameters())


def test_a_models_size_is_that_of_its_weights_in_float32(policy_folder, reward_folder):
    policy, reward = load_policy(policy_folder), load_reward_model(reward_folder)
    assert find_model("policy", str(policy_folder)).size == 4 * count(policy)
    assert find_model("reward", str(reward_folder)).size == 4 * count(reward)


def test_a_model_in_parts_is_as_large_as_its_parts(policy_folder, tmp_path):
    load_policy(policy_folder).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    save_file({"other": torch.zeros(100)}, tmp_path / "other.safetensors")
    found = find_model("policy", str(tmp_path))
    assert found.size == find_model("policy", str(policy_folder)).size


def test_half_precision_on_disk_is_float32_in_memory(make_policy, tmp_path):
    make_policy(0, torch.bfloat16).save_pretrained(tmp_path)
    assert find_model("policy", str(tmp_path)).size == 4 * count(make_policy())


def test_the_same_files_are_the_same_model_however_they_are_called(policy_folder, monkeypatch):
    monkeypatch.chdir(policy_folder.parent)
    assert find_model("policy", "./model") == find_model("policy", str(policy_folder))
    assert find_model("policy", "./model") != find_model("reward", str(policy_folder))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"^No model in .*/nowhere\. Check the path\.$"):
        find_model("policy", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"^No file .*x\.gguf\."):
        find_model("policy", str(tmp_path / "x.gguf"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"no")
    with pytest.raises(ModelError, match="holds its weights as a pickle"):
        find_model("policy", str(tmp_path))


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        find_model("policy", str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="is no readable GGUF"):
        find_model("policy", str(tmp_path / "x.gguf"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder of the local copies of models on the Hub, without a connection."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_model_on_the_hub_is_known_by_its_name(hub, policy_folder):
    copy = hub / "models--us--tiny"
    shutil.copytree(policy_folder, copy / "snapshots" / "abc")
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text("abc", encoding="utf-8")
    need = find_model("policy", "us/tiny")
    assert need.name == "us/tiny"
    assert need.path == str(copy / "snapshots" / "abc")
    assert need.size == find_model("policy", str(policy_folder)).size


@pytest.mark.usefixtures("hub")
def test_a_model_that_cannot_be_fetched_is_one_line():
    with pytest.raises(ModelError, match=r"^No model could be loaded from us/other \(.*connection"):
        find_model("policy", "us/other")


def write_gguf(path, elements):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("some.weight", np.zeros((elements, 2), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_is_as_large_as_its_weights_and_looked_at_again_when_it_changes(tmp_path):
    path = tmp_path / "x.gguf"
    write_gguf(path, 32)
    os.utime(path, ns=(1, 1))
    assert find_model("policy", str(path)).size == 4 * 64
    write_gguf(path, 64)
    os.utime(path, ns=(2, 2))
    assert find_model("policy", str(path)).size == 4 * 128


def test_a_stage_that_was_run_again_is_another_model(policy_folder, tmp_path):
    shutil.copytree(policy_folder, tmp_path / "model")
    before = find_model("policy", str(tmp_path / "model"))
    later = before.stamp + 10**9
    os.utime(tmp_path / "model" / "model.safetensors", ns=(later, later))
    after = find_model("policy", str(tmp_path / "model"))
    assert after != before
    assert after.stamp == later


def test_a_tokenizer_from_elsewhere_makes_another_need(policy_folder, monkeypatch):
    plain = find_model("policy", str(policy_folder))
    beside = find_model("policy", str(policy_folder), str(policy_folder))
    assert plain.tokenizer is None
    assert beside.tokenizer == str(policy_folder.resolve())
    assert beside != plain
    monkeypatch.chdir(policy_folder.parent)
    assert find_model("policy", str(policy_folder), "model") == beside
    assert find_model("policy", str(policy_folder), "us/tiny").tokenizer == "us/tiny"


@pytest.mark.parametrize("index", ["nonsense", "[]", "{}", '{"weight_map": 1}'])
def test_an_index_that_names_no_files_is_refused(index, policy_folder, tmp_path):
    shutil.copytree(policy_folder, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.rename(weights.with_name("part.safetensors"))
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(ModelError, match=r"index\.json must name the files of the weights"):
        find_model("policy", str(tmp_path / "model"))


def test_files_that_are_named_and_gone_are_one_line(policy_folder, tmp_path):
    shutil.copytree(policy_folder, tmp_path / "model")
    (tmp_path / "model" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"^.*model cannot be read \(No such file or directory\)"):
        find_model("policy", str(tmp_path / "model"))
