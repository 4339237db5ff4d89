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
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
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


CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['role'] }}\n"
    "{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory) -> Path:
    """Return a folder with a third party's reward model: another vocabulary, another template."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from pipeline.models import save_model
    from pipeline.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([text.upper() + text[::-1] for text in TEXT] * 20, 380)
    tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(11)
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(8)
    folder = tmp_path_factory.mktemp("foreign") / "judge"
    save_model(folder, model, tokenizer, "# A third party's reward model for tests\n")
    return folder
