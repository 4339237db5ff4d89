"""Two real processes, joined over gloo, share every task between them."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

from pipeline.config.training import Precision
from pipeline.distributed import DTYPES, Workers, leave
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.harness import run_tasks
from pipeline.models import load_policy, save_model
from pipeline.tokenizer import load_tokenizer

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


def be_one(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
    }
    torch.set_num_threads(1)
    found = measure(Workers(), folder)
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


@pytest.mark.distributed
def test_two_processes_make_every_digit_of_one(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload(["torch", "accelerate", "lm_eval.models.huggingface"])
    processes = [context.Process(target=be_one, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    alone = measure(None, folder)
    for one in found:
        assert one["figures"] == json.loads(json.dumps(alone["figures"]))
        assert one["documents"] == alone["documents"]
        # Each did a part of every task: neither all, nor nothing.
        assert 0.25 * alone["computed"] < one["computed"] < 0.85 * alone["computed"]
