"""Small models and a small tokenizer, made from nothing, for every test that needs one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# One thread, no progress bars, no telemetry: before any library reads them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXT = [
    "Mia lives in the forest. Mia has a cat. Tom has 12 red dogs and a blue boat.",
    "The cat is small. The dog is big. Where does Tom live? Tom lives in the town.",
    "List three animals: cat, dog, fox. Say hello to Mia. Hello Mia, how are you?",
]


@pytest.fixture(scope="session")
def tiny_tokenizer():
    import torch

    from pipeline.tokenizer import train_tokenizer

    torch.set_num_threads(1)
    return train_tokenizer(TEXT * 20, 400)


@pytest.fixture(scope="session")
def tiny_formatter(tiny_tokenizer):
    from pipeline.formatting import Formatter

    return Formatter(tiny_tokenizer)


@pytest.fixture(scope="session")
def make_policy(tiny_tokenizer) -> Callable:
    """Return a function that makes a policy of two layers with seeded weights."""
    import torch

    from pipeline.config.pretrain import ModelSection
    from pipeline.models import new_llama

    def make(seed: int = 0, dtype: torch.dtype = torch.float64, context: int = 64, **shape: object):
        torch.manual_seed(seed)
        defaults = {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "intermediate_size": 48,
            "tie_embeddings": True,
        }
        section = ModelSection(**{**defaults, **shape})
        model = new_llama(section, tiny_tokenizer, context, dtype)
        # Transformers' small initial weights make every distribution uniform; spread them.
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(4)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def policy_folder(make_policy, tiny_tokenizer, tmp_path_factory) -> Path:
    """Return a folder with a saved policy and its tokenizer, float32."""
    import torch

    from pipeline.models import save_model

    folder = tmp_path_factory.mktemp("policy") / "model"
    save_model(folder, make_policy(0, torch.float32), tiny_tokenizer, "# A policy for tests\n")
    return folder


@pytest.fixture(scope="session")
def reward_folder(policy_folder, tiny_formatter, tiny_tokenizer, tmp_path_factory) -> Path:
    """Return a folder with a saved reward model, its offset 0.25."""
    from pipeline.models import new_reward_model, save_model

    model = new_reward_model(policy_folder, tiny_formatter, seed=1)
    model.config.score_offset = 0.25
    folder = tmp_path_factory.mktemp("reward") / "model"
    save_model(folder, model, tiny_tokenizer, "# A reward model for tests\n")
    return folder
