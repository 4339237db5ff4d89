"""Make, load and save the models of the line: policy, reward model, value model.

A policy is an ``AutoModelForCausalLM``; a reward model an ``AutoModelForSequenceClassification``
with one label, whose ``config.score_offset`` is what demonstrations score on average; a value
model an ``AutoModelForTokenClassification`` with one label. Weights come from safetensors or GGUF
only, and no remote code runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from pipeline.artifacts import hash_file
from pipeline.config.pretrain import ModelSection
from pipeline.config.training import Attention, LoraSection
from pipeline.cpu import use_onednn
from pipeline.errors import ConfigError, ModelError
from pipeline.formatting import Formatter
from pipeline.masked import last_token, positions
from pipeline.tokenizer import CHAT_TEMPLATE, load_tokenizer

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
GGUF_ARCHITECTURES = ("llama",)


class Base(NamedTuple):
    """A model that was loaded, its tokenizer, and what is known of where it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: dict[str, str]


def new_llama(
    shape: ModelSection,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Initialise a LLaMA of the given shape (a Mistral, the same block, with a sliding window).

    Args:
        shape: width, depth and heads.
        tokenizer: gives vocabulary size and special tokens.
        context: longest sequence, tokens.
        dtype: of the weights.
    """
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "max_position_embeddings": context,
        "rope_parameters": {**rope, **(shape.rope_parameters or {})},
        "tie_word_embeddings": shape.tie_embeddings,
        "initializer_range": shape.initializer_range,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model: PreTrainedModel
    if shape.sliding_window is None:
        model = LlamaForCausalLM(LlamaConfig(**options, attention_bias=shape.attention_bias))
        if shape.attention_bias:
            _spread_attention_biases(model)
    else:
        model = MistralForCausalLM(MistralConfig(**options, sliding_window=shape.sliding_window))
    use_onednn(model)
    return model.to(dtype)


def _spread_attention_biases(model: PreTrainedModel) -> None:
    """Draw the biases of queries and keys from N(0, 0.5^2).

    At 0, where transformers starts them, they have no gradient: a head attends by position through
    the product of the two. Rotated by RoPE, random ones give each head a taste for some distance
    from the first step on, and with it copying: on repeated random words, 4 layers of width 128,
    the loss at the copies is 0.17 after 600 steps, against 3.3 without biases.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.bias", "k_proj.bias")):
                weight.normal_(0.0, 0.5)


def load_base(
    base: str, dtype: torch.dtype = torch.float32, *, tokenizer: str | Path | None = None
) -> Base:
    """Load a base by a Hugging Face name, from a folder, or from a GGUF file.

    Args:
        base: where it is.
        dtype: of the weights.
        tokenizer: where its tokenizer is; None for one beside the weights.

    Raises:
        ModelError: for pickled weights, a GGUF of another architecture, or nothing to load.
    """
    path = Path(base).expanduser()
    if path.suffix == ".gguf":
        return _load_gguf(path, dtype, tokenizer)
    check_place(base)
    place = path if path.is_dir() else base
    found = load_tokenizer(place if tokenizer is None else tokenizer)
    model = _from_pretrained(AutoModelForCausalLM, place, dtype)
    commit = str(getattr(model.config, "_commit_hash", None) or "")
    origin = {"base": base, "format": "safetensors", "revision": commit}
    return Base(model, _with_template(found), origin)


def check_finite(model: nn.Module, place: str) -> None:
    """Refuse weights of which no number can come.

    Args:
        model: as it was loaded.
        place: where it is from, for the error.

    Raises:
        ModelError: if one of them is NaN or infinite.
    """
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelError(
                f"{place} must hold finite weights, got NaN or infinity in {name}. "
                "Its training diverged, or the file is damaged."
            )


def check_place(name: str) -> None:
    """Refuse what cannot be a model: a pickle, and a path where nothing is.

    Raises:
        ModelError: if it is one of them.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        refuse_pickle(path)
    elif path.suffix in PICKLED:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened. "
            "Convert the weights to safetensors and give that folder."
        )
    elif path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ModelError(f"No model in {name}. Check the path.")


def _load_gguf(path: Path, dtype: torch.dtype, tokenizer: str | Path | None) -> Base:
    if not path.is_file():
        raise ModelError(f"No file {path}. Check the path of the GGUF.")
    architecture, quantization = _read_gguf_header(path)
    if architecture not in GGUF_ARCHITECTURES:
        raise ModelError(
            f"{path} must hold a model of architecture {' or '.join(GGUF_ARCHITECTURES)}, "
            f"got {architecture!r}. Convert its safetensors instead."
        )
    if tokenizer is None:
        found = load_tokenizer(path.parent, gguf_file=path.name)
    else:
        found = load_tokenizer(tokenizer)
    model = _from_pretrained(AutoModelForCausalLM, path.parent, dtype, gguf_file=path.name)
    # The weights are dequantized by now; the mark would forbid saving them.
    for holder in (model, model.config):
        for mark in ("hf_quantizer", "quantization_method", "quantization_config"):
            if hasattr(holder, mark):
                delattr(holder, mark)
    model.is_quantized = False
    origin = {
        "base": path.name,
        "format": f"gguf ({quantization}, dequantized)",
        "sha256": hash_file(path),
    }
    return Base(model, _with_template(found), origin)


def _read_gguf_header(path: Path) -> tuple[str, str]:
    """Return a GGUF's architecture and its most frequent tensor type."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        field = reader.get_field("general.architecture")
        architecture = str(field.contents()) if field is not None else "unknown"
        types = [tensor.tensor_type.name for tensor in reader.tensors]
    except (ValueError, IndexError, OSError) as error:
        raise ModelError(f"{path} is no readable GGUF ({error}). Download it again.") from error
    return architecture, max(set(types), key=types.count) if types else "empty"


def refuse_pickle(folder: Path) -> None:
    """Refuse a folder whose weights are pickled.

    Raises:
        ModelError: if it holds pickled weights and no safetensors, or no weights at all.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise ModelError(
            f"{folder} holds its weights as a pickle ({pickled[0]}), which can run code when it "
            "is opened. Convert them to safetensors first."
        )
    raise ModelError(f"No model in {folder}: it holds no .safetensors file. Check the path.")


def load_policy(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a causal language model from a stage's folder."""
    refuse_pickle(path)
    return _from_pretrained(AutoModelForCausalLM, path, dtype)


class Head(nn.Linear):
    """The head of a reward or value model, which computes in the type of its weights.

    Under autocast a plain layer would round scores to bfloat16's 8 bits: two completions that
    differ by less than 1/128 of their score would tie.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the scores, [..., 1], of hidden states, [..., hidden_size]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype))


def _replace_head(model: PreTrainedModel) -> PreTrainedModel:
    """Put a ``Head`` in the place of the model's own, with the same weights."""
    plain = model.score
    head = Head(
        plain.in_features,
        plain.out_features,
        bias=plain.bias is not None,
        device=plain.weight.device,
        dtype=plain.weight.dtype,
    )
    head.load_state_dict(plain.state_dict())
    model.score = head
    return model


def new_reward_model(
    path: Path, formatter: Formatter, seed: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Make a reward model of a policy: its trunk, and a new head of one output.

    The head's weights are drawn from N(0, 1/sqrt(hidden_size + 1)) (N details, 8).
    """
    refuse_pickle(path)
    model = _from_pretrained(
        AutoModelForSequenceClassification,
        path,
        dtype,
        new={"score.weight"},
        num_labels=1,
        pad_token_id=formatter.pad_id,
    )
    _replace_head(model)
    generator = torch.Generator().manual_seed(seed)
    weight = model.score.weight
    head = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        weight.copy_(head / (model.config.hidden_size + 1) ** 0.5)
    model.config.score_offset = 0.0
    return model


def load_reward_model(path: Path | str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a reward model from a folder or by a Hugging Face name.

    Raises:
        ModelError: if its head was not trained (a policy has none), or gives several scores.
    """
    check_place(str(path))
    model, lacking, _ = _load(AutoModelForSequenceClassification, path, dtype)
    missing, labels = sorted(lacking), model.config.num_labels
    if missing or labels != 1:
        got = f"no weights for {missing[0]}" if missing else f"{labels} labels"
        raise ModelError(
            f"{path} must hold a reward model, a sequence classifier with one trained score, "
            f"got {got}. Name another model."
        )
    return _replace_head(model) if reads_last_token(model) else model


def new_value_model(reward_path: Path | str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Make a value model of a reward model: its trunk, its head, its offset as the bias."""
    reward_model = load_reward_model(reward_path, dtype)
    model = blank_value_model(reward_path, reward_model, dtype)
    with torch.no_grad():
        model.score.weight.copy_(reward_model.score.weight)
        model.score.bias.fill_(-score_offset(reward_model))
    return model


def zero_value_model(policy_path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Make a value model of a policy: its trunk, and a head of zeros (N details, 11)."""
    return blank_value_model(policy_path, load_policy(policy_path, dtype), dtype)


def blank_value_model(
    path: Path | str, owner: Any, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Make a value model with the owner's trunk and a head of zeros.

    Args:
        path: folder or name that the owner's configuration comes from.
        owner: a model of the same shape.
        dtype: of the weights.
    """
    # Transformers' token classifier has dropout 0.1 unless told otherwise; PPO trains without.
    config = AutoConfig.from_pretrained(path, classifier_dropout=0.0, num_labels=1)
    model = AutoModelForTokenClassification.from_config(config).to(dtype)
    model.model.load_state_dict(owner.model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    torch.nn.init.zeros_(model.score.bias)
    use_onednn(model)
    return _replace_head(model)


def load_value_model(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a value model."""
    refuse_pickle(path)
    return _replace_head(_from_pretrained(AutoModelForTokenClassification, path, dtype))


def reads_last_token(reward_model: Any) -> bool:
    """Tell whether a reward model is a decoder with a linear head over its hidden states."""
    return isinstance(getattr(reward_model, "score", None), nn.Linear)


def score_offset(reward_model: Any) -> float:
    """Return what demonstrations score on average under the reward model."""
    return float(getattr(reward_model.config, "score_offset", 0.0))


def score_sequences(reward_model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Score conversations at their last real token, before the offset, wherever the padding is.

    A model that reads no last token (an encoder) pools as it was trained to; its rows must be
    padded on the right.

    Args:
        reward_model: a sequence classifier with one label.
        ids: token ids, [batch, time].
        mask: True at real tokens, [batch, time].
    Returns:
        Scores before the offset, [batch].
    """
    if not reads_last_token(reward_model):
        pooled: Tensor = reward_model(input_ids=ids, attention_mask=mask.long()).logits.squeeze(-1)
        return pooled
    hidden = reward_model.base_model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask),
        use_cache=False,
    ).last_hidden_state
    rows = torch.arange(ids.shape[0], device=ids.device)
    scores: Tensor = reward_model.score(hidden[rows, last_token(mask)]).squeeze(-1)
    return scores


def set_attention(model: PreTrainedModel, attention: Attention, where: str) -> None:
    """Choose the attention kernel that a model trains with; it is not saved with the model.

    Raises:
        ConfigError: if the kernel is not installed or does not fit the model; names ``where``.
    """
    try:
        model.set_attn_implementation(attention)
    except (ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{where}.attention must be a kernel that works here, got {attention!r} ({reason}). "
            "Use sdpa."
        ) from error


def check_adapters(
    model: nn.Module, lora: LoraSection, where: str, kinds: tuple[type, ...] = (nn.Module,)
) -> None:
    """Check that every layer that is to get adapters is in the model.

    A name stands for the modules whose path ends with it, any other string than ``all-linear`` is
    a regular expression of whole paths (PEFT).

    Args:
        model: what is to get adapters.
        lora: which layers are.
        where: path of the section, for the error.
        kinds: classes of layers that can have them.

    Raises:
        ConfigError: if a name or the expression fits no module of the kinds; names ``where``.
    """
    wanted = lora.target_modules
    paths = [path for path, layer in model.named_modules() if isinstance(layer, kinds)]
    if wanted == "all-linear":
        unknown: list[str] = []
    elif isinstance(wanted, str):
        unknown = [] if any(_fits(wanted, path) for path in paths) else [wanted]
    else:
        ends = {path.rpartition(".")[2] for path in paths} | set(paths)
        unknown = [name for name in wanted if name not in ends]
    if unknown or not wanted:
        layers = (path for path, layer in model.named_modules() if isinstance(layer, nn.Linear))
        known = sorted({path.rpartition(".")[2] for path in layers})
        raise ConfigError(
            f"{where}.lora.target_modules must name layers of the model, got "
            f"{unknown[0] if unknown else wanted!r}. Use all-linear, or of {', '.join(known)}."
        )


def _fits(expression: str, path: str) -> bool:
    try:
        return re.fullmatch(expression, path) is not None
    except re.error:
        return False


def save_model(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str
) -> None:
    """Write safetensors, configuration, tokenizer, chat template and card to a folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _with_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a base without a chat template ours, if it knows the role tokens."""
    known = tokenizer.get_vocab()
    if not tokenizer.chat_template and "<|assistant|>" in known:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _load(
    kind: Any, path: Path | str, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, set[str], set[str]]:
    """Load a model; return the names of weights that it lacks, and of those too many, as well.

    Raises:
        ModelError: if there is none.
    """
    verbosity = logging.get_verbosity()
    # Transformers would draw what is missing at random, and only warn.
    logging.set_verbosity_error()
    safe = {} if "gguf_file" in options else {"use_safetensors": True}
    try:
        model: PreTrainedModel
        model, found = kind.from_pretrained(
            str(path),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **safe,
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(
            f"No model could be loaded from {path} ({reason}). "
            "Give a folder with safetensors, or a model's name and a connection."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    use_onednn(model)
    misshapen = {str(name) for name, *_ in found["mismatched_keys"]}
    return model, {*found["missing_keys"], *misshapen}, set(found["unexpected_keys"])


def _from_pretrained(
    kind: Any,
    path: Path | str,
    dtype: torch.dtype,
    *,
    new: Collection[str] = (),
    **options: Any,
) -> PreTrainedModel:
    """Load a model that is whole.

    Raises:
        ModelError: if it cannot be loaded, lacks weights other than ``new``, or has a head for
            scores where a language model is asked for.
    """
    model, lacking, unexpected = _load(kind, path, dtype, **options)
    missing = sorted(lacking - set(new))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{path} must hold the weights that its config.json describes, got none of that shape "
            f"for {missing[0]}{more}. Mend config.json, or export the model again."
        )
    if kind is AutoModelForCausalLM and "score.weight" in unexpected:
        raise ModelError(
            f"{path} must hold a language model, got a reward or value model. Name another."
        )
    return model
