"""Products by oneDNN against PyTorch's in double, and memory that stays with the process."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.cpu import NARROW, OneDnnLinear, has_onednn, use_onednn, without_onednn

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this PyTorch has no oneDNN products")
WIDE, OTHER = NARROW + 8, NARROW


def make_layer(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> OneDnnLinear:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(WIDE, OTHER, bias=bias, dtype=dtype))
    use_onednn(layer)
    assert isinstance(layer[0], OneDnnLinear)
    return layer[0]


def twin_of(layer: nn.Linear) -> nn.Linear:
    twin = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None).double()
    twin.load_state_dict(layer.state_dict())
    return twin


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (), (2, 0)])
def test_values_and_gradients_are_those_of_the_product(bias, shape):
    layer = make_layer(bias=bias)
    twin = twin_of(layer)
    inputs = torch.randn(*shape, WIDE)
    one, other = inputs.clone().requires_grad_(), inputs.double().requires_grad_()
    outputs, expected = layer(one), twin(other)
    assert outputs.shape == (*shape, OTHER)
    outputs.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(outputs.double(), expected, rtol=1e-5, atol=1e-5)
    pairs = zip([one, *layer.parameters()], [other, *twin.parameters()], strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_only_the_gradients_that_are_needed_are_made():
    layer = make_layer()
    layer.weight.requires_grad_(False)
    inputs = torch.randn(4, WIDE)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((OTHER,), 4.0))


@needs_onednn
def test_inputs_need_not_be_contiguous():
    layer = make_layer()
    inputs = torch.randn(WIDE, 6)
    torch.testing.assert_close(layer(inputs.t()), layer(inputs.t().contiguous()))


@needs_onednn
@pytest.mark.parametrize("context", ["float64", "autocast"])
def test_other_types_of_numbers_are_left_to_pytorch(context):
    layer = make_layer(dtype=torch.float64 if context == "float64" else torch.float32)
    inputs = torch.randn(4, WIDE, dtype=layer.weight.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=context == "autocast"):
        outputs = layer(inputs)
        assert torch.equal(outputs, nn.functional.linear(inputs, layer.weight, layer.bias))
    assert outputs.dtype == (torch.float64 if context == "float64" else torch.bfloat16)


def test_narrow_layers_and_those_of_other_classes_stay_as_they_are():
    class Special(nn.Linear):
        pass

    model = nn.ModuleList([nn.Linear(WIDE, NARROW - 1), nn.Linear(1, WIDE), Special(WIDE, WIDE)])
    use_onednn(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, Special]


@needs_onednn
def test_the_weights_are_saved_under_the_same_names():
    layer = make_layer()
    assert set(layer.state_dict()) == {"weight", "bias"}


CHILD = """
import resource, sys, torch
from pipeline.cpu import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    print("not glibc")
    raise SystemExit
def work():
    weight = torch.zeros(1024, 1024, requires_grad=True)
    hidden = torch.ones(4096, 1024)
    for _ in range(4):
        hidden = torch.tanh(hidden @ weight)
    hidden.sum().backward()
for _ in range(8):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_new_pages():
    def faults(how: str) -> str:
        command = [sys.executable, "-c", CHILD, how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    kept = faults("kept")
    if kept == "not glibc":
        pytest.skip("mallopt is glibc's")
    assert int(kept) < 0.5 * int(faults("given back"))


@needs_onednn
def test_a_models_products_are_pytorchs_own_for_a_while():
    layer = make_layer()
    plain = nn.Linear(WIDE, OTHER)
    plain.load_state_dict(layer.state_dict())
    inputs = torch.randn(5, WIDE)
    with pytest.raises(KeyError), without_onednn(nn.Sequential(layer)):  # noqa: PT012
        assert type(layer) is nn.Linear
        assert torch.equal(layer(inputs), plain(inputs))
        raise KeyError
    assert type(layer) is OneDnnLinear
    with without_onednn(plain):
        assert type(plain) is nn.Linear
