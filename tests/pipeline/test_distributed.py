"""Two real processes, joined over gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from pipeline.actor_critic import ActorCritic
from pipeline.config.ppo import PpoSection
from pipeline.distributed import Workers, leave
from pipeline.errors import DataError
from pipeline.optimizing import Average
from pipeline.ptx import PretrainingMix

TEXT = torch.arange(32).reshape(8, 4) * 5 % 7
SECTION = PpoSection(
    **{"rollout_batch_size": 8, "minibatch_size": 8, "micro_batch_size": 2, "episodes": 8},
    **{"ptx_coef": 3.0, "ptx_ratio": 1.0, "precision": "float64"},
)


class Bigrams(nn.Module):
    """Guess a token from the one before, through a table of which a part is frozen."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table, self.out = nn.Embedding(7, 4).double(), nn.Linear(4, 7).double()
        self.out.bias.requires_grad_(False)

    def forward(self, input_ids, **_):
        return CausalLMOutput(logits=self.out(self.table(input_ids)))


def gradients_of(*models):
    return [w.grad for model in models for w in model.parameters() if w.grad is not None]


def train_wrapped(workers):
    """Return the gradients of a mean over all rows, of which a process has its share."""
    model = workers.wrap(Bigrams(0))
    parts = TEXT[workers.rank :: workers.world_size].split(2)
    for i, part in enumerate(parts):
        with workers.accumulating(model, last=i == len(parts) - 1):
            loss = (model(part).logits ** 3).sum()
            (loss * workers.world_size / len(TEXT)).backward()
    workers.average_gradients(model)
    return gradients_of(model)


def train_both(workers):
    """Return the same of a policy and a value model without wrappers, which PPO trains."""
    models = Bigrams(0), Bigrams(1)
    trained = ActorCritic(SECTION, workers, *models)
    parts = TEXT[workers.rank :: workers.world_size].split(2)
    for i, part in enumerate(parts):
        with trained.accumulating(last=i == len(parts) - 1):
            loss = sum((model(part).logits ** 3).sum() for model in models)
            (loss * workers.world_size / len(TEXT)).backward()
    return gradients_of(*models)


def train_on_text(workers):
    """Return the pretraining gradients of a policy without a wrapper."""
    policy = Bigrams(0)
    for weight in policy.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    PretrainingMix(SECTION, workers, TEXT, seed=0).add_gradient(policy, 0, Average())
    return gradients_of(policy)


TRAINED = {"wrapped": train_wrapped, "both": train_both, "text": train_on_text}


def fail() -> None:
    raise DataError("only the first process can know.")


def be_one(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
    }
    workers, said = Workers("float64"), ""
    try:
        workers.on_main(fail)
    except DataError as error:
        said = str(error)
    own = torch.tensor([1.0 + rank, 10.0])
    answers = {
        "place": [workers.rank, workers.world_size],
        **{kind: train(workers) for kind, train in TRAINED.items()},
        "total": workers.total(own).tolist(),
        "own": own.tolist(),
        "gathered": workers.gather_objects([f"{rank}a", f"{rank}b"]),
        "from main": workers.on_main(lambda: f"made by {rank}"),
        "said": said,
    }
    torch.save(answers, folder / f"{rank}.pt")
    leave()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload(["torch", "accelerate"])
    processes = [context.Process(target=be_one, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("kind", TRAINED)
def test_two_processes_have_the_gradient_of_one(answers, kind):
    alone = TRAINED[kind](Workers("float64"))
    assert all(gradient.abs().max() > 1e-3 for gradient in alone)
    for rank, answer in enumerate(answers):
        assert answer["place"] == [rank, 2]
        for ours, theirs in zip(answer[kind], alone, strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(*(answer[kind] for answer in answers), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.distributed
def test_what_crosses_processes_is_the_same_on_each(answers):
    for rank, answer in enumerate(answers):
        assert answer["total"] == [3.0, 20.0]
        assert answer["own"] == [1.0 + rank, 10.0]
        assert answer["gathered"] == ["0a", "0b", "1a", "1b"]
        assert answer["from main"] == "made by 0"
        assert answer["said"] == "only the first process can know."
