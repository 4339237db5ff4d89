"""Mutants of what lasts and of what is shared: resuming, and models on one backbone."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PPO = "pipeline/ppo.py"
FORWARD = "pipeline/forward.py"
HYDRA = "pipeline/hydra.py"
HYDRA_MODELS = "pipeline/hydra_models.py"
ACTOR_CRITIC = "pipeline/actor_critic.py"

RESUMED = "test_ppo.py::test_a_resumed_training_is_bit_identical"
HYDRA_START = "test_hydra_ppo.py::test_at_the_start_policy_and_reference_are_one[adapter]"
MERGED = "test_hydra_ppo.py::test_its_gradient_is_that_of_models_with_merged_weights[trunk]"

STATES = (
    Mutant(
        "resume: KL coefficient lost",
        PPO,
        '            "kl": self.kl,\n',
        "",
        "A resumed training starts its adaptive KL again.",
        (RESUMED + "[fields1]",),
    ),
    Mutant(
        "resume: score deviation lost",
        PPO,
        '            "scaler": self.scaler,\n',
        "",
        "A resumed training scales its first scores anew.",
        (RESUMED + "[fields1]",),
    ),
    Mutant(
        "resume: optimizers lost",
        PPO,
        '            "optimizers": self.trained,\n',
        "",
        "A resumed training has forgotten Adam's moments.",
        (RESUMED + "[fields0]",),
    ),
    Mutant(
        "resume: cursors at the start",
        PPO,
        'self.iteration = state["iteration"]',
        "self.iteration = 0",
        "A resumed training repeats prompts, text and warm-up.",
        (RESUMED + "[fields0]",),
    ),
    Mutant(
        "resume: the average replaced",
        PPO,
        'self.average.save_pretrained(folder / "average")',
        'self.workers.unwrap(self.policy).save_pretrained(folder / "average")',
        "A resumed average starts at the last policy.",
        ("test_ppo_loop.py::test_cut_anywhere_it_ends_as_if_it_had_not_been[3]",),
    ),
    Mutant(
        "hydra: adapters on in the reference",
        HYDRA,
        "layer.enable_adapters(False)",
        "layer.enable_adapters(True)",
        "The KL is measured to the last adapter that was at work.",
        ("test_hydra.py::test_without_adapters_the_reference_is_the_base_exactly",),
    ),
    Mutant(
        "hydra: the policy is its own reference",
        HYDRA_MODELS,
        "Branch(backbone, None), value_model",
        "Branch(backbone, POLICY), value_model",
        "The KL is always 0.",
        (HYDRA_START,),
    ),
    Mutant(
        "hydra: the reward's adapter gives values",
        HYDRA_MODELS,
        "value_model = Branch(backbone, VALUE, head=head)",
        'value_model = Branch(backbone, "reward", head=head)',
        "The value model's trunk never learns.",
        (HYDRA_START,),
    ),
    Mutant(
        "hydra: value start's offset sign",
        HYDRA_MODELS,
        "head.bias.fill_(-score_offset(reward_model))",
        "head.bias.fill_(score_offset(reward_model))",
        "Values begin off by twice the offset.",
        ("test_hydra_ppo.py::test_the_value_model_starts_as_the_reward_model",),
    ),
    Mutant(
        "resume: the value adapter lost",
        HYDRA_MODELS,
        "branches = {POLICY: hydra.policy, VALUE: hydra.value_model, AVERAGE",
        "branches = {POLICY: hydra.policy, AVERAGE",
        "A resumed value model starts again.",
        ("test_hydra_ppo.py::test_it_goes_on_from_a_checkpoint_bit_for_bit[0.0-adapter]",),
    ),
    Mutant(
        "hydra: value coefficient not in the loss",
        PPO,
        "self.trained.value_coef * masked_sum(value_losses, mask)",
        "masked_sum(value_losses, mask)",
        "The value loss drowns the policy's on their one trunk.",
        ("test_hydra_ppo.py::test_the_trunk_is_moved_by_the_value_loss_with_its_weight",),
    ),
    Mutant(
        "hydra: value coefficient not read",
        ACTOR_CRITIC,
        "self.value_coef = section.hydra.value_coef",
        "self.value_coef = 1.0",
        "hydra.value_coef does nothing.",
        ("test_hydra_ppo.py::test_a_head_on_the_policy_learns_at_the_values_rate",),
    ),
    Mutant(
        "dropout: not seeded by the step",
        PPO,
        '            seed_generators(self.seed, "dropout", step, workers.rank)\n',
        "            pass\n",
        "A resumed run drops other weights than one that went through.",
        ("test_hydra_ppo.py::test_it_goes_on_from_a_checkpoint_bit_for_bit",),
    ),
    Mutant(
        "hydra: dropout in rollouts",
        ACTOR_CRITIC,
        "                model.eval()\n",
        "                del model\n",
        "From the second iteration on, rollouts drop out.",
        ("test_hydra_ppo.py::test_it_goes_on_from_a_checkpoint_bit_for_bit[0.2-adapter]",),
    ),
    Mutant(
        "hydra: not at the temperature",
        FORWARD,
        "output.logits[:, :-1] / temperature",
        "output.logits[:, :-1]",
        "The ratio is not that of the distribution that was sampled.",
        (MERGED,),
    ),
    Mutant(
        "hydra: values off by a column",
        FORWARD,
        "values[:, -time - 1 : -1]",
        "values[:, -time:]",
        "Values have seen the token that they judge.",
        (MERGED,),
    ),
)
