"""PPO with its models on one backbone, in both of its ways to give values."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from pipeline.actor_critic import ActorCritic
from pipeline.config.hydra import HydraSection
from pipeline.config.training import LoraSection
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError
from pipeline.hydra import Backbone, add_reward, lora_config, new_head, save_adapter
from pipeline.hydra_models import make_hydra, merged_policy, merged_value_model, resume_hydra
from pipeline.models import load_policy
from pipeline.optimizing import Average
from pipeline.ppo import Models, PPOTrainer
from pipeline.records import Prompt
from pipeline.rewards import FunctionReward, ModelReward, WeightedSum

WAYS = ("adapter", "trunk")
PROMPTS = [Prompt.from_text(f"Where does Mia live, {i}?") for i in range(8)]


@pytest.fixture(scope="session")
def reward_adapter(policy_folder, tmp_path_factory) -> Path:
    """Return a folder with the adapters and the head of a reward model on the policy."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("reward-adapter")
    backbone = Backbone(load_policy(policy_folder, torch.float64))
    backbone.add("made", lora_config(LoraSection(rank=4), policy_folder), seed=7, trained=False)
    generator = torch.Generator().manual_seed(8)
    for weight in backbone.weights("made").values():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    save_adapter(backbone, "made", folder)
    file = folder / "adapter_model.safetensors"
    head = torch.randn(1, 32, generator=generator, dtype=torch.float64)
    save_file({**load_file(file), "base_model.model.score.weight": head}, file)
    return folder


@pytest.fixture
def make_hydra_trainer(policy_folder, reward_adapter, tiny_formatter, change):
    def make(value="adapter", *, reward=None, rank=4, lora_dropout=0.0, ptx=None, **fields):
        hydra = HydraSection(lora=LoraSection(rank=rank, dropout=lora_dropout), value=value)
        section = change(**{"hydra": hydra, "learning_rate": 1e-2, **fields})
        workers = Workers(section.precision)
        backbone = load_policy(policy_folder, DTYPES[section.precision])
        if section.activation_checkpointing:
            backbone.activation_checkpointing_enable({"use_reentrant": False})
        made = make_hydra(
            backbone,
            hydra,
            start=policy_folder,
            reward=None if reward else (reward_adapter, 0.25),
            averaged=section.ema_decay is not None,
            seed=5,
        )
        scorer = reward or ModelReward(
            made.reward_model,
            workers,
            name="reward",
            where="ppo.reward",
            batch_size=section.rollout_micro_batch_size,
        )
        models = Models(made.policy, made.ref_policy, scorer, made.value_model, made.average)
        trainer = PPOTrainer(
            section,
            workers,
            tiny_formatter,
            models,
            prompts=PROMPTS,
            ptx_sequences=ptx,
            seed=5,
        )
        return trainer, made

    return make


def roll(trainer):
    return trainer.score(trainer.roll_out(trainer.next_prompts()))


def differing(ours: dict, theirs: dict, tolerance: float = 1e-9) -> list[str]:
    keys = [key for key in ours if not key.startswith("perf/")]
    assert keys == [key for key in theirs if not key.startswith("perf/")]
    return [key for key in keys if ours[key] != pytest.approx(theirs[key], abs=tolerance)]


@pytest.mark.parametrize("way", WAYS)
def test_at_the_start_policy_and_reference_are_one(make_hydra_trainer, way):
    trainer, made = make_hydra_trainer(way, num_ppo_epochs=1, minibatch_size=8)
    start = {name: w.clone() for name, w in made.backbone.model.named_parameters()}
    figures = trainer.step()
    assert figures["objective/kl"] == 0
    assert figures["policy/ratio"] == pytest.approx(1, abs=1e-9)
    assert figures["policy/clipfrac"] == 0
    moved = [
        name
        for name, w in made.backbone.model.named_parameters()
        if not torch.equal(w, start[name])
    ]
    adapters = {"policy", "average"} | ({"value"} if way == "adapter" else set())
    assert {name.split(".")[-2] for name in moved} == adapters
    assert all("lora_" in name for name in moved)
    assert trainer.step()["objective/kl"] != 0


def test_the_value_model_starts_as_the_reward_model(make_hydra_trainer):
    trainer, _ = make_hydra_trainer()
    rollout = roll(trainer)
    for i in range(len(rollout)):
        real = rollout.ids[i][rollout.attention_mask[i]]
        before = int(rollout.completion_mask[i].sum()) + 1
        hidden = trainer.reward.model.base_model(input_ids=real[None]).last_hidden_state
        expected = trainer.reward.model.score(hidden)[0, -before:-1, 0] - 0.25
        values = rollout.values[i][rollout.completion_mask[i]]
        assert torch.allclose(values, expected, rtol=0, atol=1e-9)


def test_without_a_reward_model_on_it_values_start_at_zero(make_hydra_trainer):
    assert roll(make_hydra_trainer("trunk")[0]).values.abs().max() == 0


@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_change_no_number(make_hydra_trainer, ptx_text, way):
    fields = {"ptx": ptx_text(), "ptx_coef": 2.0, "ptx_ratio": 1.0, "ptx_length": 12}
    whole, _ = make_hydra_trainer(way, **fields)
    parts, _ = make_hydra_trainer(way, micro_batch_size=1, rollout_micro_batch_size=3, **fields)
    for _ in range(2):
        assert differing(whole.step(), parts.step()) == []


@pytest.mark.parametrize("way", WAYS)
def test_its_gradient_is_that_of_models_with_merged_weights(make_hydra_trainer, way, tmp_path):
    trainer, made = make_hydra_trainer(way, ema_decay=None, temperature=0.7)
    for _ in range(2):
        trainer.step()
    rollout = roll(trainer)
    tally = Average()
    trainer.ppo_loss(rollout, tally)
    trainer.trained.save(tmp_path)
    folder = tmp_path / ("value" if way == "adapter" else "policy")
    start = Path(made.backbone.configs["policy"].base_model_name_or_path)
    policy = merged_policy(start, tmp_path / "policy", torch.float64).eval()
    branch = made.value_model or made.policy
    value = merged_value_model(start, folder, branch, torch.float64).eval()
    with torch.no_grad():
        for i in range(len(rollout)):
            real = rollout.ids[i][rollout.attention_mask[i]][None]
            mask = rollout.completion_mask[i]
            count = int(mask.sum())
            logprobs = (policy(real).logits / 0.7).log_softmax(-1)[0, :-1]
            taken = logprobs.gather(1, real[0, 1:, None])[-count:, 0]
            assert torch.allclose(rollout.logprobs[i][mask], taken, rtol=0, atol=1e-9)
            values = value(real).logits[0, -count - 1 : -1, 0]
            assert torch.allclose(rollout.values[i][mask], values, rtol=0, atol=1e-9)


def test_the_trunk_is_moved_by_the_value_loss_with_its_weight(make_hydra_trainer):
    trainer, _ = make_hydra_trainer("trunk", kl_coef=0.0)
    rollout = roll(trainer)
    rollout = type(rollout)(**{**vars(rollout), "advantages": torch.zeros_like(rollout.advantages)})
    torch.nn.init.normal_(trainer.policy.value_head.weight)

    def gradient(coef: float) -> torch.Tensor:
        trainer.trained.value_coef = coef
        trainer.policy.zero_grad()
        trainer.ppo_loss(rollout, Average()).backward()
        return torch.cat([w.grad.flatten() for w in trainer.policy.parameters()])

    assert gradient(0.0).abs().max() == 0
    one = gradient(1.0)
    assert one.abs().max() > 0
    # Transformers' norms compute in float32.
    scale = float(one.abs().max())
    assert torch.allclose(gradient(0.1) / scale, 0.1 * one / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(make_hydra_trainer, way, dropout, tmp_path):
    fields = {"lora_dropout": dropout, "attention_dropout": dropout}
    whole, made = make_hydra_trainer(way, **fields)
    whole.step()
    whole.save_state(tmp_path)
    resumed, other = make_hydra_trainer(way, **fields)
    resume_hydra(other, tmp_path)
    resumed.load_state(tmp_path)
    torch.rand(3)  # What others draw in between does not matter.
    for _ in range(2):
        assert differing(whole.step(), resumed.step(), tolerance=0) == []
    for name in ("policy", "average", *(["value"] if way == "adapter" else [])):
        ours, theirs = made.backbone.weights(name), other.backbone.weights(name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.parametrize("way", WAYS)
def test_dropout_is_in_training_passes_alone(make_hydra_trainer, way):
    plain, _ = make_hydra_trainer(way)
    dropping, _ = make_hydra_trainer(way, lora_dropout=0.3)
    first, second = plain.step(), dropping.step()
    assert first["objective/scores"] == second["objective/scores"]
    assert second["objective/kl"] == 0
    assert first["loss/value"] != second["loss/value"] or way == "trunk"
    for attention in (0.0, 0.5):
        trainer, _ = make_hydra_trainer(way, attention_dropout=attention, minibatch_size=8)
        figures = trainer.step()
        assert (figures["policy/approxkl"] > 1e-8) == (attention > 0)


def test_recomputed_activations_give_the_same_gradients(make_hydra_trainer):
    plain, _ = make_hydra_trainer("trunk")
    saving, made = make_hydra_trainer("trunk", activation_checkpointing=True)
    calls = []
    layer = made.backbone.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert differing(plain.step(), saving.step()) == []
    trained = [grad for grad in calls if grad]
    # Every training pass runs the layer twice: forward, and again in the backward pass.
    assert len(trained) == 2 * 2 * saving.section.num_ppo_epochs


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_what_a_function_rewards(make_hydra_trainer, way):
    def spaces(prompts, completions):
        assert prompts
        return [float(text.count(" ")) for text in completions]

    counted = FunctionReward(spaces, Workers(), name="spaces", where="ppo.rewards[0].function")
    trainer, _ = make_hydra_trainer(
        way,
        rank=8,
        reward=WeightedSum([(1.0, counted)], "ppo.rewards"),
        episodes=8 * 60,
        num_ppo_epochs=2,
        learning_rate=2e-2,
        value_learning_rate=1e-2,
        kl_coef=0.01,
        ema_decay=None,
        missing_eos_penalty=None,
    )
    history = [trainer.step() for _ in range(60)]
    early = sum(figures["reward/spaces"] for figures in history[:5]) / 5
    late = sum(figures["reward/spaces"] for figures in history[-5:]) / 5
    assert late > early + 0.5
    assert history[-1]["objective/kl"] < 20


@pytest.mark.parametrize("wanted", [["v_porj"], ["embed_tokens"], ["q_proj", "self_attn"]])
def test_adapters_go_on_linear_layers_that_are_there(policy_folder, wanted):
    section = HydraSection(lora=LoraSection(target_modules=wanted))
    model = load_policy(policy_folder, torch.float64)
    with pytest.raises(
        ConfigError,
        match=rf"ppo\.hydra\.lora\.target_modules must name layers .*, got '{wanted[-1]}'",
    ):
        make_hydra(model, section, start=policy_folder, reward=None, averaged=False, seed=0)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_average_follows_the_policys_adapter(make_hydra_trainer):
    trainer, made = make_hydra_trainer(ema_decay=0.75)
    before = copy.deepcopy(made.backbone.weights("average"))
    trainer.step()
    after, policy = made.backbone.weights("average"), made.backbone.weights("policy")
    for name, slow in after.items():
        expected = before[name] + 0.25 * (policy[name] - before[name])
        assert torch.allclose(slow, expected, rtol=0, atol=1e-12)
    assert trainer.candidate is made.average


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_what_is_saved_loads_by_itself(make_hydra_trainer, policy_folder, tmp_path):
    trainer, made = make_hydra_trainer()
    trainer.step()
    trainer.trained.save(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    expected = made.policy(input_ids=ids).logits
    base = AutoModelForCausalLM.from_pretrained(policy_folder, dtype=torch.float64)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "policy")).eval()
    assert torch.allclose(adapted(input_ids=ids).logits, expected, rtol=0, atol=1e-9)
    merged_policy(policy_folder, tmp_path / "policy", torch.float64).save_pretrained(tmp_path / "m")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float64).eval()
    assert torch.allclose(alone(input_ids=ids).logits, expected, rtol=0, atol=1e-9)
    value = merged_value_model(policy_folder, tmp_path / "value", made.value_model, torch.float64)
    value.save_pretrained(tmp_path / "v")
    kind = AutoModelForTokenClassification
    alone = kind.from_pretrained(tmp_path / "v", dtype=torch.float64).eval()
    values = made.value_model(input_ids=ids).logits
    assert torch.allclose(alone(input_ids=ids).logits, values, rtol=0, atol=1e-9)


def test_a_head_on_the_policy_learns_at_the_values_rate(policy_folder, change):
    hydra = HydraSection(value="trunk", value_coef=0.3)
    section = change(hydra=hydra, learning_rate=1e-3, value_learning_rate=0.1)
    made = make_hydra(
        load_policy(policy_folder, torch.float64),
        section.hydra,
        start=policy_folder,
        reward=None,
        averaged=False,
        seed=0,
    )
    trained = ActorCritic(section, Workers("float64"), made.policy, None)
    assert trained.value_coef == 0.3
    trained.scale_rates(0.5)
    rates = {
        id(weight): group["lr"]
        for group in trained.optimizers["policy"].param_groups
        for weight in group["params"]
    }
    head = {id(weight) for weight in made.policy.value_head.parameters()}
    assert {rates[weight] for weight in head} == {0.05}
    assert {rate for weight, rate in rates.items() if weight not in head} == {0.0005}
    assert len(rates) == len(list(made.policy.parameters()))


def test_a_reward_model_of_another_shape_is_refused(policy_folder, reward_adapter):
    backbone = Backbone(load_policy(policy_folder, torch.float64))
    assert add_reward(backbone, reward_adapter, 0.5).config.score_offset == 0.5
    assert new_head(32, torch.float64, bias=True).weight.abs().sum() == 0
