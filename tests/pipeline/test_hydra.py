from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from pipeline.config.training import LoraSection
from pipeline.errors import ModelError
from pipeline.hydra import (
    Backbone,
    Branch,
    load_adapter,
    lora_config,
    merge,
    new_head,
    save_adapter,
)
from pipeline.models import load_policy

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [9, 8, 7, 6, 5, 4]])


@pytest.fixture
def backbone(policy_folder):
    made = Backbone(load_policy(policy_folder, torch.float64).eval())
    for i, name in enumerate(("policy", "value")):
        made.add(name, lora_config(LoraSection(rank=4), policy_folder), seed=i, trained=True)
    made.add("average", lora_config(LoraSection(rank=4), policy_folder), seed=0, trained=False)
    return made


def stir(backbone, name, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in backbone.weights(name).values():
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.1)


def test_without_adapters_the_reference_is_the_base_exactly(policy_folder, backbone):
    expected = load_policy(policy_folder, torch.float64).eval()(IDS).logits
    stir(backbone, "policy")
    policy, reference = Branch(backbone, "policy"), Branch(backbone, None)
    moved = policy(input_ids=IDS).logits
    assert torch.equal(reference(input_ids=IDS).logits, expected)
    assert not torch.allclose(moved, expected)
    assert torch.equal(policy(input_ids=IDS).logits, moved), "switching back and forth leaves it"


def test_a_new_adapter_changes_nothing(policy_folder, backbone):
    expected = load_policy(policy_folder, torch.float64).eval()(IDS).logits
    assert torch.equal(Branch(backbone, "policy")(input_ids=IDS).logits, expected)


def test_a_branch_owns_its_adapter_and_heads_alone(backbone):
    head = new_head(32, torch.float64, bias=True)
    policy, value = Branch(backbone, "policy"), Branch(backbone, "value", head=head)
    ours, theirs = ({id(weight) for weight in branch.parameters()} for branch in (policy, value))
    assert not ours & theirs
    assert {id(weight) for weight in head.parameters()} <= theirs
    trained = {id(weight) for weight in policy.language_model.parameters() if weight.requires_grad}
    assert trained == ours | (theirs - {id(weight) for weight in head.parameters()})
    assert not list(Branch(backbone, None).parameters())
    assert all(not weight.requires_grad for weight in Branch(backbone, "average").parameters())


def test_gradients_of_two_branches_in_one_backward_pass_equal_those_of_two(backbone):
    for name in ("policy", "value"):
        stir(backbone, name)
    head = new_head(32, torch.float64, bias=True)
    torch.nn.init.normal_(head.weight)
    branches = Branch(backbone, "policy"), Branch(backbone, "value", head=head)

    def losses():
        policy, value = branches
        yield policy(input_ids=IDS).logits.logsumexp(-1).sum()
        yield value(input_ids=IDS).logits.square().sum()

    def gradients():
        found = [w.grad.clone() for branch in branches for w in branch.parameters()]
        for branch in branches:
            branch.zero_grad()
        return found

    sum(losses()).backward()
    together = gradients()
    for loss in losses():
        loss.backward()
    for one, other in zip(together, gradients(), strict=True):
        assert one.abs().sum() > 0
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_values_beside_the_logits_come_from_the_same_trunk(backbone):
    stir(backbone, "policy")
    head = new_head(32, torch.float64, bias=True)
    torch.nn.init.normal_(head.weight)
    both = Branch(backbone, "policy", value_head=head)
    output, values = both(input_ids=IDS, with_values=True)
    alone = Branch(backbone, "policy", head=head)(input_ids=IDS).logits.squeeze(-1)
    assert torch.equal(output.logits, Branch(backbone, "policy")(input_ids=IDS).logits)
    assert torch.equal(values, alone)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_saved_is_one_that_peft_loads(tmp_path, policy_folder, backbone):
    stir(backbone, "policy")
    expected = Branch(backbone, "policy")(input_ids=IDS).logits
    save_adapter(backbone, "policy", tmp_path)
    base = load_policy(policy_folder, torch.float64).eval()
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert torch.allclose(loaded(input_ids=IDS).logits, expected, rtol=0, atol=1e-12)
    merged = merge(load_policy(policy_folder, torch.float64).eval(), tmp_path)
    assert torch.allclose(merged(input_ids=IDS).logits, expected, rtol=0, atol=1e-9)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_a_branch_reads_back_what_it_wrote(tmp_path, backbone):
    stir(backbone, "value")
    head = new_head(32, torch.float64, bias=True)
    torch.nn.init.normal_(head.weight)
    branch = Branch(backbone, "value", head=head)
    expected = branch(input_ids=IDS).logits
    branch.save_pretrained(tmp_path)
    with torch.no_grad():
        for weight in branch.parameters():
            weight.zero_()
    assert not torch.equal(branch(input_ids=IDS).logits, expected)
    branch.load_pretrained(tmp_path)
    assert torch.equal(branch(input_ids=IDS).logits, expected)


def test_an_adapter_of_another_rank_is_refused(tmp_path, policy_folder, backbone):
    save_adapter(backbone, "policy", tmp_path)
    other = Backbone(load_policy(policy_folder, torch.float64))
    other.add("policy", lora_config(LoraSection(rank=2), policy_folder), seed=0, trained=True)
    with pytest.raises(ModelError, match="must fit the model's layers"):
        load_adapter(other, "policy", tmp_path)
    with pytest.raises(ModelError, match="No adapter in"):
        load_adapter(other, "policy", tmp_path / "none")
