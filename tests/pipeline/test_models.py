from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, MistralForCausalLM

from pipeline.config.pretrain import ModelSection
from pipeline.config.training import LoraSection
from pipeline.errors import ConfigError, ModelError
from pipeline.models import (
    check_adapters,
    last_token,
    load_base,
    load_policy,
    load_reward_model,
    new_llama,
    new_reward_model,
    new_value_model,
    refuse_pickle,
    save_model,
    score_offset,
    score_sequences,
    set_attention,
    zero_value_model,
)

IDS = torch.arange(6, 30)[None]
SHAPE = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture
def write_gguf(tmp_path):
    """Return a function that writes a GGUF of one tensor."""
    gguf = pytest.importorskip("gguf")

    def write(architecture: str):
        path = tmp_path / f"{architecture}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(2)
        writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_query_heads_share_keys_and_values(make_policy):
    attention = make_policy().model.layers[0].self_attn
    assert tuple(attention.q_proj.weight.shape) == (32, 32)
    assert tuple(attention.k_proj.weight.shape) == (16, 32)
    assert tuple(attention.v_proj.weight.shape) == (16, 32)


def test_a_llama_has_its_parts(tiny_tokenizer):
    model = new_llama(ModelSection(**SHAPE, rope_theta=5000.0), tiny_tokenizer, 64)
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.vocab_size == len(tiny_tokenizer)
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0}
    assert model.config.hidden_act == "silu"
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    tied = new_llama(ModelSection(**SHAPE, tie_embeddings=True), tiny_tokenizer, 64)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_a_sliding_window_is_the_same_block_within_its_reach(make_policy):
    whole = make_policy()
    window = make_policy(sliding_window=8)
    assert isinstance(window, MistralForCausalLM)
    window.load_state_dict(whole.state_dict())
    near, far = whole(IDS).logits, window(IDS).logits
    assert torch.allclose(near[:, :8], far[:, :8], rtol=0, atol=1e-9)
    assert (near[:, 12:] - far[:, 12:]).abs().max() > 1e-3


def test_a_longer_context_is_reached_by_its_parameters(make_policy):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    model = make_policy(context=64, rope_parameters=yarn)
    assert model.config.rope_parameters["rope_type"] == "yarn"
    assert not torch.allclose(model(IDS).logits, make_policy(context=64)(IDS).logits)


def test_a_policy_comes_back_as_it_was_saved(make_policy, tiny_tokenizer, tmp_path):
    model = make_policy()
    save_model(tmp_path, model, tiny_tokenizer, "# Card\n")
    assert torch.equal(load_policy(tmp_path, torch.float64)(IDS).logits, model(IDS).logits)
    assert (tmp_path / "README.md").read_text() == "# Card\n"
    base = load_base(str(tmp_path), torch.float64)
    assert torch.equal(base.model(IDS).logits, model(IDS).logits)
    assert base.tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    assert base.origin["format"] == "safetensors"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "w.ckpt"])
def test_a_pickle_is_refused_unread(tmp_path, name):
    bomb = tmp_path / name
    bomb.write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    for path in (tmp_path, bomb):
        with pytest.raises(ModelError, match=r"pickle.*Convert"):
            load_base(str(path))
    with pytest.raises(ModelError, match=rf"as a pickle \({name}\)"):
        load_policy(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no .safetensors file"):
        refuse_pickle(tmp_path)


@pytest.mark.parametrize(
    "base", ["/nowhere/model", "./nowhere", "/nowhere/model.gguf", "runs/nowhere/model"]
)
def test_a_base_that_is_not_there_is_one_line(base):
    with pytest.raises(ModelError, match="nowhere") as caught:
        load_base(base)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_one_line(make_policy, tiny_tokenizer, tmp_path):
    save_model(tmp_path, make_policy(), tiny_tokenizer, "# Card\n")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ModelError, match="No model could be loaded from") as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "weight"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\..* and 8 more"),
        ({"intermediate_size": 40}, r"model\.layers\.0\.mlp\.down_proj\.weight and 5 more"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight\."),
    ],
)
def test_weights_that_are_missing_are_never_drawn_at_random(
    make_policy, tiny_tokenizer, tmp_path, capfd, change, weight
):
    save_model(tmp_path, make_policy(), tiny_tokenizer, "# Card\n")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for load in (load_base, load_policy):
        with pytest.raises(ModelError, match=rf"got none of that shape for {weight}") as caught:
            load(tmp_path if load is load_policy else str(tmp_path))
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_reward_model_is_no_base(reward_folder):
    with pytest.raises(ModelError, match=r"must hold a language model, got a reward or value"):
        load_base(str(reward_folder))


def test_a_base_may_lie_in_the_home_folder(policy_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(policy_folder.parent))
    base = load_base(f"~/{policy_folder.name}")
    assert torch.equal(base.model(IDS).logits, load_policy(policy_folder)(IDS).logits)


def test_a_gguf_of_another_architecture_is_refused(write_gguf):
    path = write_gguf("mamba")
    message = rf"{path} must hold a model of architecture llama, got 'mamba'"
    with pytest.raises(ModelError, match=message):
        load_base(str(path))


@pytest.mark.parametrize("size", [0, 3, 40, 200])
def test_a_truncated_gguf_is_refused(write_gguf, size):
    path = write_gguf("llama")
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ModelError, match=rf"{path} is no readable GGUF"):
        load_base(str(path))


def test_a_reward_model_keeps_the_trunk_and_draws_its_head(policy_folder, tiny_formatter):
    policy = load_policy(policy_folder)
    first, again, other = (new_reward_model(policy_folder, tiny_formatter, s) for s in (1, 1, 2))
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weight, first.model.get_parameter(name))
    assert torch.equal(first.score.weight, again.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    assert first.score.weight.std().item() == pytest.approx((32 + 1) ** -0.5, rel=0.5)
    assert score_offset(first) == 0.0


def test_scores_depend_on_neither_padding_nor_neighbours(reward_folder):
    model = load_reward_model(reward_folder, torch.float64).eval()
    mask = torch.ones_like(IDS, dtype=torch.bool)
    alone = score_sequences(model, IDS, mask)
    padded = torch.cat([IDS, torch.zeros(1, 5, dtype=torch.long)], dim=1)
    other = torch.full_like(padded, 9)
    both = score_sequences(
        model,
        torch.cat([padded, other]),
        torch.cat([torch.cat([mask, torch.zeros(1, 5, dtype=torch.bool)], dim=1), other > 0]),
    )
    assert both[0].item() == pytest.approx(alone.item(), abs=1e-9)
    # The RMS norm computes in float32 whatever the weights are.
    plain = model(input_ids=IDS).logits
    assert plain.item() == pytest.approx(alone.item(), abs=1e-6)


def test_autocast_does_not_round_scores(reward_folder):
    model = load_reward_model(reward_folder, torch.float32).eval()
    mask = torch.ones_like(IDS, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = score_sequences(model, IDS, mask)
        values = new_value_model(reward_folder, torch.float32)(IDS, use_cache=False).logits
    for found in (scores, values):
        assert found.dtype == torch.float32
        assert not torch.equal(found, found.bfloat16().float()), "more than bfloat16's digits"


def test_a_value_model_begins_as_the_offset_reward_model(reward_folder):
    reward = load_reward_model(reward_folder, torch.float64).eval()
    value = new_value_model(reward_folder, torch.float64).eval()
    mask = torch.ones_like(IDS, dtype=torch.bool)
    expected = score_sequences(reward, IDS, mask) - score_offset(reward)
    assert value(input_ids=IDS).logits[0, -1, 0].item() == pytest.approx(expected.item(), abs=1e-6)
    assert score_offset(reward) == 0.25


def test_a_value_model_of_a_policy_has_its_trunk_and_is_zero_everywhere(policy_folder):
    policy, value = load_policy(policy_folder), zero_value_model(policy_folder)
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weight, value.model.get_parameter(name))
    assert value.eval()(input_ids=IDS).logits.abs().max().item() == 0
    value.train()(input_ids=IDS).logits.sum().backward()
    assert value.score.weight.grad.abs().max().item() > 0


def test_a_model_without_a_trained_head_is_no_reward_model(policy_folder, caplog):
    with pytest.raises(ModelError, match=r"got no weights for score\.weight\. Name another model"):
        load_reward_model(policy_folder)
    assert caplog.text == ""


def test_the_last_real_token_is_found():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    assert last_token(mask).tolist() == [1, 3, 0]


def test_attention_kernels_agree_and_one_that_is_missing_is_named(make_policy):
    model = make_policy()
    logits = model(IDS).logits
    set_attention(model, "eager", "sft")
    assert model.config._attn_implementation == "eager"
    # The eager kernel takes its softmax in float32.
    assert torch.allclose(model(IDS).logits, logits, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match=r"sft\.attention must be a kernel that works here"):
        set_attention(model, "flash_attention_2", "sft")


@pytest.mark.parametrize(
    "wanted", ["all-linear", ["q_proj", "v_proj"], r".*\.[qk]_proj", ["lm_head"]]
)
def test_adapters_of_layers_that_are_there_pass(make_policy, wanted):
    check_adapters(make_policy(), LoraSection(target_modules=wanted), "sft")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (["q_proj", "v_porj"], "'v_porj'"),
        ("q_proj", "'q_proj'"),
        ("(", "'\\('"),
        ([], r"\[\]"),
    ],
)
def test_adapters_of_other_layers_are_refused_with_those_that_are(make_policy, wanted, named):
    with pytest.raises(
        ConfigError,
        match=rf"^sft\.lora\.target_modules must name layers of the model, got {named}\. "
        r"Use all-linear, or of down_proj, gate_proj, k_proj, lm_head, o_proj",
    ):
        check_adapters(make_policy(), LoraSection(target_modules=wanted), "sft")
