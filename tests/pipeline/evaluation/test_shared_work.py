"""Two real processes, joined over gloo, share what is measured between them."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.best_of import BestOfSection
from pipeline.config.evaluate import EvaluateSection
from pipeline.config.sampling import DecodingSection
from pipeline.config.source import Source
from pipeline.config.training import Precision
from pipeline.data import read_prompts
from pipeline.distributed import DTYPES, Workers, leave
from pipeline.errors import DataError
from pipeline.evaluation.best_of import BestOfEvaluator, Subject
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.harness import run_tasks
from pipeline.models import load_policy, save_model
from pipeline.tokenizer import load_tokenizer

PATIENCE = 240
"""Seconds for two processes on a busy machine; alone they take some ten."""
PLACES = {"sft": "model", "reward": "judge"}
GENERATED = """\
task: said
dataset_path: json
dataset_kwargs: {data_files: {test: PATH}}
test_split: test
fewshot_split: test
fewshot_config: {sampler: first_n}
output_type: generate_until
doc_to_text: query
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def measure(workers: Workers | None, folder: Path, precision: Precision = "float32") -> dict:
    """Run the folder's tasks on its model and count the tokens that this process computes."""
    model = load_policy(folder / "model", DTYPES[precision])
    computed = []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, ids, __: computed.append(ids[0].numel()))
    tasks = load_tasks(
        [str(folder / "questions.jsonl"), str(folder / "yaml")], [0, 2], 0, folder, write=False
    )
    outcome = run_tasks(
        model,
        load_tokenizer(folder / "model"),
        tasks,
        shots=[0, 2],
        limit=None,
        batch_size=4,
        bins=4,
        seed=0,
        workers=workers,
    )
    return {
        "figures": outcome.figures,
        "documents": outcome.documents,
        "computed": sum(computed),
    }


def answer(workers: Workers, folder: Path) -> str:
    """Let the folder's model answer its prompts; return what is said against them."""
    section = EvaluateSection(
        prompts=[Source(str(folder / "prompts.jsonl"))],
        decoding=DecodingSection(max_new_tokens=8),
    )
    evaluator = Evaluator(section, 0, workers, folder / "evaluate")
    try:
        evaluator.evaluate("sft", folder / "model", "hash")
    except DataError as error:
        return str(error)
    return "nothing"


def pick(workers: Workers, folder: Path) -> str:
    """Let a reward model pick among the model's answers; return what is said against them."""
    prompts = read_prompts([Source(str(folder / "prompts.jsonl"))], 0)
    section = BestOfSection(stage="sft", n=[1, 2])
    sft, reward = (Subject(name, folder / place, name) for name, place in PLACES.items())
    evaluator = BestOfEvaluator(section, prompts, 8, 0, workers, folder, sft, reward, 4)
    try:
        evaluator.evaluate([])
    except DataError as error:
        return str(error)
    return "nothing"


def be_one(rank: int, port: int, folder: Path, work: Callable[[Workers, Path], Any]) -> None:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
    }
    torch.set_num_threads(1)
    found = work(Workers(), folder)
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


@pytest.fixture
def folder(tmp_path, questions, make_policy, tiny_tokenizer, monkeypatch):
    model = make_policy(dtype=torch.float32, context=256)
    save_model(tmp_path / "model", model, tiny_tokenizer, "# For tests\n")
    (tmp_path / "yaml").mkdir()
    text = GENERATED.replace("PATH", str(questions))
    (tmp_path / "yaml" / "said.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return tmp_path


def share(folder: Path, work: Callable[[Workers, Path], Any]) -> list[Any]:
    """Let two processes do the work together, and return what each of them gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload(["torch", "accelerate", "lm_eval.models.huggingface"])
    processes = [
        context.Process(target=be_one, args=(rank, port, folder, work)) for rank in range(2)
    ]
    try:
        for process in processes:
            process.start()
        # One that fails leaves the other waiting for it.
        for process in processes:
            process.join(PATIENCE)
    finally:
        for process in processes:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.distributed
def test_two_processes_make_every_digit_of_one(folder):
    found = share(folder, measure)
    alone = measure(None, folder)
    for one in found:
        assert one["figures"] == json.loads(json.dumps(alone["figures"]))
        assert one["documents"] == alone["documents"]
        # Each did a part of every task: neither all, nor nothing.
        assert 0.25 * alone["computed"] < one["computed"] < 0.85 * alone["computed"]


@pytest.mark.distributed
def test_a_prompt_that_is_too_long_stops_both(folder):
    # The second process's share; the first one's would do.
    prompts = [{"prompt": "Say hello"}, {"prompt": "Where does Mia live? " * 90}]
    text = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    first, second = share(folder, answer)
    assert first.startswith("evaluate.prompts: a prompt must have at most 248 tokens")
    assert "the longest of 1 among 2" in first
    assert first == second


@pytest.mark.distributed
def test_an_answer_that_a_reward_model_cannot_read_stops_both(folder, reward_folder):
    # The policy reads 256 tokens, the reward model 64; the second process has the long prompt.
    shutil.copytree(reward_folder, folder / "judge")
    prompts = [{"prompt": "Say hello"}, {"prompt": "Where does Mia live? " * 15}]
    text = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    first, second = share(folder, pick)
    assert "must be given conversations of at most 64 tokens, got " in first
    assert "('Where does Mia live?" in first
    assert first == second
