"""Keep PPO's models in one: a frozen backbone, with an adapter and a head for each of them.

    policy      backbone + adapter "policy"     language-model head
    reference   backbone, adapters off          language-model head
    average     backbone + adapter "average"    language-model head
    value       backbone + adapter "value"      head of one output, or such a head on the policy
    reward      backbone + adapter "reward"     head of one output

The backbone is the policy's start, so that switching the adapters off gives the reference exactly.
One copy of the weights is held, and only adapters and heads have gradients and optimizer states.

A ``Branch`` is one of these models: it switches the backbone to its adapter before every forward
pass, and owns its adapter's and its head's parameters, none of the backbone's. The adapters are
PEFT's LoRA layers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from pipeline.adapted import use_adapted
from pipeline.config.training import LoraSection
from pipeline.errors import ModelError
from pipeline.models import Head

ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
# PEFT names the weights of an adapter as those of a model inside a PeftModel.
PREFIX = "base_model.model."


class Backbone:
    """A causal language model whose own weights are frozen, with named LoRA adapters.

    Args:
        model: the model; adapters are put into it, and its weights need no gradient afterwards.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False)
        # Of all weights but those that ``Workers.freeze`` keeps in bfloat16.
        self.dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self.configs: dict[str, LoraConfig] = {}
        self.trained: set[str] = set()
        self._places: dict[str, list[tuple[str, nn.Module]]] = {}
        self._active: str | None = None

    def add(self, name: str, config: LoraConfig, *, seed: int, trained: bool) -> None:
        """Add an adapter that changes nothing yet: its second matrices are zero.

        Args:
            name: of the adapter.
            config: PEFT's settings.
            seed: of the first matrices.
            trained: whether its weights take gradients.
        """
        torch.manual_seed(seed)  # PEFT draws the adapters from the global generator.
        with warnings.catch_warnings():
            # Several adapters in one model are the point here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            inject_adapter_in_model(config, self.model, adapter_name=name)
        use_adapted(self.model)
        # Every step asks for the weights, and a walk through the model takes milliseconds.
        self._places[name] = [
            (f"{path}.lora_{half}.weight", layer)
            for path, layer in self.model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_A
            for half, layer in (("A", layer.lora_A[name]), ("B", layer.lora_B[name]))
        ]
        for weight in self.weights(name).values():
            weight.data = weight.data.to(self.dtype)
        self.configs[name] = config
        if trained:
            self.trained.add(name)
        self._active = name
        self.activate(None)

    def activate(self, name: str | None) -> None:
        """Compute with one adapter from now on, or with none.

        The gradients' flags stay as they are for every adapter: a graph that was built with one
        adapter may run backward while another is active.
        """
        if name == self._active:
            return
        for layer in self._layers():
            if name is None:
                layer.enable_adapters(False)
            else:
                layer.set_adapter(name)
                layer.enable_adapters(True)
            layer.set_requires_grad(list(self.configs), False)
            layer.set_requires_grad(sorted(self.trained), True)
        self._active = name

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """Return an adapter's weights by their place, the adapter's name left out."""
        return {place: layer.weight for place, layer in self._places[name]}  # type: ignore[misc]

    def copy(self, source: str, target: str) -> None:
        """Give one adapter the weights of another of the same shape."""
        with torch.no_grad():
            theirs = self.weights(source)
            for place, weight in self.weights(target).items():
                weight.copy_(theirs[place])

    def merged(self, name: str | None) -> Iterator[tuple[str, Tensor]]:
        """Yield the model's weights, one by one, as they are with an adapter merged into them.

        Args:
            name: of the adapter; None merges none.
        """
        modules = dict(self.model.named_modules())
        for place, weight in self.model.named_parameters():
            owner, _, kind = place.rpartition(".")
            if ".lora_" in place:
                continue
            layer = modules[owner.removesuffix(".base_layer")]
            whole = weight.detach()
            if kind == "weight" and isinstance(layer, LoraLayer) and name in layer.lora_A:
                with torch.no_grad():
                    whole = whole + layer.get_delta_weight(name)
            yield place.replace(".base_layer.", "."), whole

    def _layers(self) -> list[LoraLayer]:
        return [module for module in self.model.modules() if isinstance(module, LoraLayer)]


class Branch(nn.Module):
    """One of the models: the backbone under one adapter, with a head.

    Args:
        backbone: shared with the other branches.
        adapter: the adapter's name; None switches the adapters off.
        head: gives one output a token instead of the vocabulary's logits.
        value_head: gives a language model's branch a value a token beside its logits.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        *,
        head: nn.Linear | None = None,
        value_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self._backbone, self.adapter = backbone, adapter
        self.language_model = backbone.model
        self.score, self.value_head = head, value_head
        self.config = copy.deepcopy(backbone.model.config)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        device: torch.device = self.language_model.device
        return device

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the adapter's and the heads' parameters; the backbone's are nobody's to train."""
        del recurse, remove_duplicate
        if self.adapter is not None:
            yield from self._backbone.weights(self.adapter).items()
        for name, head in (("score", self.score), ("value_head", self.value_head)):
            if head is not None:
                yield from head.named_parameters(f"{prefix}{name}")

    def forward(self, *, with_values: bool = False, **inputs: Any) -> Any:
        """Return what the model of this branch returns.

        Args:
            with_values: of a language model with a value head: return values, [batch, time], beside
                the output, from one pass.
            inputs: as the language model takes them.
        """
        if self.score is not None:
            hidden = self.base_model(**inputs).last_hidden_state
            return TokenClassifierOutput(logits=self.score(hidden))
        self._backbone.activate(self.adapter)
        if not with_values:
            return self.language_model(**inputs)
        assert self.value_head is not None, "this branch has no value head"
        seen: list[Tensor] = []
        trunk = self.language_model.base_model
        hook = trunk.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
        try:
            output = self.language_model(**inputs)
        finally:
            hook.remove()
        return output, self.value_head(seen[0]).squeeze(-1)

    def base_model(self, **inputs: Any) -> Any:
        """Return the trunk's output under this branch's adapter."""
        self._backbone.activate(self.adapter)
        return self.language_model.base_model(**inputs)

    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield a language model's weights, this branch's adapter merged into them."""
        return self._backbone.merged(self.adapter)

    def save_pretrained(self, folder: Path) -> None:
        """Write the adapter as PEFT reads it, and the head beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.adapter is not None:
            save_adapter(self._backbone, self.adapter, folder)
        head = self.score if self.score is not None else self.value_head
        if head is not None:
            save_file(_contiguous(head.state_dict()), folder / HEAD_FILE)

    def load_pretrained(self, folder: Path) -> None:
        """Read back what ``save_pretrained`` wrote."""
        if self.adapter is not None:
            load_adapter(self._backbone, self.adapter, folder)
        head = self.score if self.score is not None else self.value_head
        if head is not None:
            head.load_state_dict(load_file(folder / HEAD_FILE))


def lora_config(section: LoraSection, base: Path) -> LoraConfig:
    """Return PEFT's settings of adapters on a causal language model."""
    modules = section.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )


def save_adapter(backbone: Backbone, name: str, folder: Path) -> None:
    """Write an adapter to a folder that ``PeftModel.from_pretrained`` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {PREFIX + key: weight.data for key, weight in backbone.weights(name).items()}
    save_file(_contiguous(weights), folder / ADAPTER_FILE, metadata={"format": "pt"})
    backbone.configs[name].save_pretrained(str(folder))


def load_adapter(backbone: Backbone, name: str, folder: Path) -> dict[str, Tensor]:
    """Give an adapter the weights of a folder; return those that are not the adapter's: a head.

    Raises:
        ModelError: if the file is missing, damaged, or of other places or shapes.
    """
    path = folder / ADAPTER_FILE
    try:
        found = {key.removeprefix(PREFIX): value for key, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"No adapter in {folder} ({error}). Check the path.") from error
    weights = backbone.weights(name)
    wrong = [
        key
        for key, weight in weights.items()
        if key not in found or found[key].shape != weight.shape
    ]
    if wrong:
        raise ModelError(
            f"The adapter in {folder} must fit the model's layers, but {wrong[0]} does not. "
            "It was made for another base, rank, or set of target modules."
        )
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(found.pop(key))
    return found


def read_adapter_config(folder: Path) -> LoraConfig:
    """Return the settings of a saved adapter, to be used as they are.

    Raises:
        ModelError: if there are none, or they are not LoRA's.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"No LoRA adapter in {folder} ({reason}). Check the path.") from error
    if not isinstance(config, LoraConfig):
        raise ModelError(f"The adapter in {folder} must be LoRA, got {config.peft_type}.")
    # Heads are read by us; PEFT would put a module of the base in their place.
    config.modules_to_save = None
    config.task_type = "CAUSAL_LM"
    config.inference_mode = False
    return config


def merge(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return a freshly loaded base with a saved adapter merged into its weights."""
    with warnings.catch_warnings():
        # PEFT asks the model for a property that transformers has renamed.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted = PeftModel.from_pretrained(base, str(folder))
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def add_reward(backbone: Backbone, adapter: Path, score_offset: float) -> Branch:
    """Add a reward model that was trained by adapters on this very backbone.

    Args:
        backbone: what the adapters were trained on.
        adapter: folder that the reward stage wrote: adapters and head.
        score_offset: what demonstrations score on average.

    Raises:
        ModelError: if the folder holds no such adapter, or one of another model.
    """
    backbone.add("reward", read_adapter_config(adapter), seed=0, trained=False)
    rest = load_adapter(backbone, "reward", adapter)
    head = new_head(backbone.model.config.hidden_size, backbone.dtype, bias=False)
    if "score.weight" not in rest or rest["score.weight"].shape != head.weight.shape:
        raise ModelError(
            f"The adapter in {adapter} must come with a head of one score, got none. "
            "Train the reward model again."
        )
    with torch.no_grad():
        head.weight.copy_(rest["score.weight"])
    branch = Branch(backbone, "reward", head=head.requires_grad_(False))
    branch.config.score_offset = score_offset
    return branch


def new_head(hidden_size: int, dtype: torch.dtype, *, bias: bool) -> Head:
    """Return a head of one output that is zero everywhere."""
    head = Head(hidden_size, 1, bias=bias, dtype=dtype)
    for weight in head.parameters():
        nn.init.zeros_(weight)
    return head


def _contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.contiguous().cpu() for key, weight in weights.items()}
