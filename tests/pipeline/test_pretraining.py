from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts import hash_text
from pipeline.checkpointing import RunFolderTrainer
from pipeline.config.run import resolve
from pipeline.config.source import Source
from pipeline.errors import ConfigError, RunError
from pipeline.formatting import encode_document
from pipeline.models import load_policy
from pipeline.pretraining import draw_corpus, hash_base
from stages.pretrain import run

ROOT = Path(__file__).parents[2]
WORDS = ["the cat sees 12 dogs", "Mia lives in a town", "a fox is small", "Tom has a red boat"]


@pytest.fixture
def documents(tmp_path) -> Path:
    path = tmp_path / "documents.jsonl"
    texts = [f"{WORDS[i % 4]}. {WORDS[(i * 3 + 1) % 4]} and {i}." for i in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def make_config(tmp_path, documents):
    def make(folder: str = "run", base: str | None = None, **fields):
        section = {
            "tokens": 1600,
            "sources": [{"path": str(documents)}],
            "model": {
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 4,
                "num_kv_heads": 2,
                "intermediate_size": 48,
            },
            "vocab_size": 400,
            "tokenizer_documents": 40,
            "context": 32,
            "batch_size": 8,
            "micro_batch_size": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "precision": "float64",
            "log_every": 1,
            "checkpoint_every": 2,
        }
        tree = {"run_dir": str(tmp_path / folder), "seed": 1, "base": base}
        return resolve({**tree, "pretrain": {**section, **fields}})

    return make


def manifest(config) -> dict:
    return json.loads((config.run_dir / "pretrain" / "manifest.json").read_text())


def lines(config) -> list[dict]:
    text = (config.run_dir / "pretrain" / "metrics.jsonl").read_text()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("perf/")}
        for line in text.splitlines()
    ]


def test_a_base_is_trained_from_nothing_and_skipped_once_complete(make_config):
    config = make_config()
    run(config, "pretrain")
    made = manifest(config)
    assert made["status"] == "complete"
    assert made["metrics"]["steps"] == 1600 // (8 * 32)
    assert made["metrics"]["tokens"] == made["metrics"]["steps"] * 8 * 32
    assert made["metrics"]["origin"] == {"base": "trained from scratch"}
    losses = [line["loss"] for line in lines(config) if "loss" in line]
    assert losses[-1] < losses[0] - 0.3
    assert made["metrics"]["train_loss"] == losses[-1]
    run(config, "pretrain")
    assert manifest(config) == made


def test_the_model_loads_in_a_process_without_this_project(make_config, tmp_path):
    config = make_config()
    run(config, "pretrain")
    program = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
chat = tokenizer.apply_chat_template([{"role": "user", "content": "Where?"}], return_tensors="pt",
                                     add_generation_prompt=True, return_dict=True)
out = model.generate(**chat, max_new_tokens=3, do_sample=False)
assert "pipeline" not in sys.modules
print(model.config.use_cache, out.shape[1] - chat["input_ids"].shape[1] <= 3, len(tokenizer))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, config.run_dir / "pretrain" / "model"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    size = manifest(config)["metrics"]["vocab_size"]
    assert done.stdout.split() == ["True", "True", str(size)]


def test_the_mixture_follows_the_weights_and_is_recorded(make_config, documents, tmp_path):
    other = tmp_path / "other.jsonl"
    shutil.copy(documents, other)
    sources = [{"path": str(documents), "weight": 3}, {"path": str(other), "weight": 1}]
    config = make_config(sources=sources)
    run(config, "pretrain")
    first, second = manifest(config)["metrics"]["mixture"]
    assert (first["weight"], second["weight"]) == (0.75, 0.25)
    wanted = manifest(config)["metrics"]["tokens"]
    assert first["tokens"] == pytest.approx(0.75 * wanted, abs=40)
    assert first["epochs"] == first["documents"] / 60
    assert lines(config)[0] == {"step": 0, "mixture": [first, second]}


def test_rows_are_whole_documents_one_after_the_other(documents, tiny_tokenizer):
    corpus = draw_corpus([Source(str(documents))], tiny_tokenizer, rows=5, context=32, seed=1)
    assert corpus.rows.shape == (5, 32)
    assert corpus.rows.dtype == np.int32
    stream = corpus.rows.flatten().tolist()
    texts = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    known = [encode_document(tiny_tokenizer, text) for text in texts]
    while stream:
        match = next(ids for ids in known if stream[: len(ids)] == ids[: len(stream)])
        stream = stream[len(match) :]


def test_a_killed_stage_ends_as_an_uninterrupted_one(make_config, monkeypatch):
    whole, cut = make_config("whole"), make_config("cut")
    run(whole, "pretrain")
    step = RunFolderTrainer.training_step

    def killed(self, *args, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolderTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(cut, "pretrain")
    assert manifest(cut)["status"] == "failed"
    run(cut, "pretrain")
    assert lines(cut) == lines(whole)
    assert manifest(cut)["metrics"] == manifest(whole)["metrics"]
    for file in ("pretrain/model/model.safetensors", "pretrain/samples.jsonl"):
        assert (cut.run_dir / file).read_bytes() == (whole.run_dir / file).read_bytes()


def test_a_base_is_loaded_as_it_is(make_config, policy_folder):
    config = make_config(base=str(policy_folder), tokens=0, precision="float32")
    run(config, "pretrain")
    given = load_policy(policy_folder).state_dict()
    kept = load_policy(config.run_dir / "pretrain" / "model").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in given.items())
    assert manifest(config)["metrics"]["origin"]["base"] == str(policy_folder)
    assert manifest(config)["sources"] == hash_base(str(policy_folder))


def test_a_base_is_trained_further(make_config, policy_folder):
    config = make_config(base=str(policy_folder), learning_rate=1e-3)
    run(config, "pretrain")
    losses = [line["loss"] for line in lines(config) if "loss" in line]
    assert losses[-1] < losses[0]
    card = (config.run_dir / "pretrain" / "model" / "README.md").read_text()
    assert str(policy_folder) in card
    assert hash_base(str(policy_folder))[str(policy_folder)] in card


def test_another_base_is_noticed(make_config, policy_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(policy_folder, base)
    config = make_config(base=str(base), tokens=0)
    run(config, "pretrain")
    (base / "README.md").write_text("# Another\n")
    with pytest.raises(RunError, match=r"other inputs: data .*base has changed"):
        run(config, "pretrain")


def test_a_base_on_the_hub_is_its_own_name():
    assert hash_base("org/model") == {"org/model": "hub:org/model"}
    assert hash_base(None) == {}


def test_a_base_is_hashed_by_names_and_bytes(tmp_path):
    (tmp_path / "one").write_text("x")
    digest = hash_text("x")
    assert hash_base(str(tmp_path)) == {str(tmp_path): hash_text(f"one\0{digest}\n")}
    assert hash_base(str(tmp_path / "one")) == {str(tmp_path / "one"): digest}


def test_tokens_that_fill_no_batch_are_refused(make_config):
    with pytest.raises(ConfigError, match=r"pretrain.tokens must fill one batch .*= 256\), got 2"):
        run(make_config(tokens=255), "pretrain")


def test_a_context_longer_than_the_base_is_refused(make_config, policy_folder):
    config = make_config(base=str(policy_folder), context=65, tokens=10_000)
    message = r"pretrain.context must be at most the model's context \(64\), got 65"
    with pytest.raises(ConfigError, match=message):
        run(config, "pretrain")


@pytest.mark.distributed
def test_two_processes_train_as_one(make_config, tmp_path):
    alone, together = make_config("alone"), make_config("together")
    run(alone, "pretrain")
    path = tmp_path / "run.yaml"
    path.write_text(together.dump())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", ROOT / "configs/accelerate/cpu-2.yaml"),
            *("--main_process_port", "0", "-m", "stages.pretrain", path),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert manifest(together)["world_size"] == 2
    assert manifest(alone)["world_size"] == 1
    for one, two in zip(lines(alone)[1:], lines(together)[1:], strict=True):
        assert two == pytest.approx(one, abs=1e-6)
    assert (together.run_dir / "pretrain/checkpoints/step-00000006/rng_state_1.pth").is_file()
