"""A linear layer with its adapter in one step, against PEFT's layer."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from pipeline.adapted import AdaptedLinear, use_adapted

INNER, OUTER = 12, 20


def make_pair(
    *, dropout: float = 0.0, bias: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, nn.Module]:
    """Return PEFT's layer in a model, and the same with ours; second matrices are not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INNER, OUTER, bias=bias))
    config = LoraConfig(
        r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["0"], init_lora_weights=False
    )
    theirs = inject_adapter_in_model(config, model).to(dtype)
    theirs[0].base_layer.requires_grad_(False)
    ours = copy.deepcopy(theirs)
    use_adapted(ours)
    assert type(theirs[0]) is LoraLinear
    assert type(ours[0]) is AdaptedLinear
    return theirs, ours


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def outcome(model: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output and all gradients of one pass."""
    inputs = inputs.clone().requires_grad_()
    torch.manual_seed(1)
    output = model(inputs)
    output.square().sum().backward()
    gradients = {name: weight.grad for name, weight in trained(model).items()}
    return {"output": output.detach(), "inputs": inputs.grad, **gradients}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_peft(bias, dropout, training):
    pair = make_pair(bias=bias, dropout=dropout)
    inputs = torch.randn(2, 5, INNER, dtype=torch.float64)
    theirs, ours = (outcome(model.train(training), inputs) for model in pair)
    assert len(ours) == 4
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-10)


def test_without_gradients_it_computes_the_same():
    theirs, ours = make_pair()
    inputs = torch.randn(5, INNER, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grad", [True, False])
def test_under_autocast_products_are_bfloat16(grad):
    theirs, ours = make_pair(dtype=torch.float32)
    inputs = torch.randn(64, INNER)
    exact = theirs(inputs)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        output = ours(inputs)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)
    if grad:
        output.float().square().sum().backward()
        assert {weight.grad.dtype for weight in trained(ours).values()} == {torch.float32}


def test_adapters_that_are_off_leave_the_layer_exactly():
    _, ours = make_pair()
    inputs = torch.randn(5, INNER, dtype=torch.float64)
    ours[0].enable_adapters(False)
    assert torch.equal(ours(inputs), ours[0].base_layer(inputs))


def test_what_is_not_plain_is_left_to_peft():
    theirs, ours = make_pair()
    inputs = torch.randn(5, INNER, dtype=torch.float64)
    for model in (theirs, ours):
        model[0].base_layer.requires_grad_(True)
    whole = outcome(ours, inputs)
    assert "0.base_layer.weight" in whole
    for name, value in outcome(theirs, inputs).items():
        torch.testing.assert_close(whole[name], value)
    for model in (theirs, ours):
        model[0].merge()
    assert torch.equal(ours(inputs), theirs(inputs))


def test_an_adapter_in_use_takes_what_was_written_to_its_weights():
    theirs, ours = make_pair(dtype=torch.float32)
    inputs = torch.randn(5, INNER)
    with torch.no_grad():
        before = ours(inputs)
        for model in (theirs, ours):
            model[0].lora_B["default"].weight.mul_(2)
        assert not torch.allclose(ours(inputs), before)
        torch.testing.assert_close(ours(inputs), theirs(inputs))
