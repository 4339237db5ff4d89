"""Hold others' settings of PPO by name: what the fields take that a YAML leaves out.

A preset gives hyper-parameters, not what belongs to a task (prompts, lengths). What its source does
not say keeps the section's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["instructgpt", "n_plus", "llama2"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Ouyang et al. 2022, C.4: the section's defaults, each with its source beside it.
    "instructgpt": {},
    # Huang et al. 2024 (arXiv:2403.17031); "code" is the ppo.py that they released with it.
    "n_plus": {
        "episodes": 1_000_000,
        "rollout_batch_size": 512,
        "minibatch_size": 512,  # one minibatch
        "num_ppo_epochs": 4,
        "temperature": 0.7,
        "kl_coef": 0.05,
        "clip_range": 0.2,
        "value_clip_range": 0.2,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "learning_rate": 3e-6,
        "value_learning_rate": 3e-6,  # one optimizer for both
        "warmup_iterations": 0,  # code
        "lr_schedule": "linear",
        "adam_beta2": 0.999,  # code: AdamW's default
        "adam_epsilon": 1e-5,
        "weight_decay": 0.01,  # code: AdamW's default; theirs decays vectors too
        "max_grad_norm": None,  # code: the gradient is not clipped
        "whiten_rewards": False,
        "whiten_advantages": True,
        "missing_eos_penalty": None,
        "missing_eos_score": -1.0,  # the EOS trick
        "ptx_coef": 0.0,  # no pretraining term
        "ema_decay": None,  # no average
    },
    # Touvron et al. 2023 (arXiv:2307.09288), section 3.2.3.
    "llama2": {
        "episodes": 204_800,  # 400 iterations, the longest of "200 to 400"
        "rollout_batch_size": 512,
        "minibatch_size": 64,
        "num_ppo_epochs": 1,  # one step a minibatch
        "kl_coef": 0.01,  # 7B and 13B; 0.005 for 34B and 70B
        "clip_range": 0.2,
        "learning_rate": 1e-6,
        "value_learning_rate": 1e-6,  # one rate is printed
        "warmup_iterations": 0,  # "constant"
        "lr_schedule": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-5,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "score_scaling": "batch",  # the whitened logit of the reward model's output
        "ptx_coef": 0.0,  # the objective has no pretraining term
        "ema_decay": None,  # none is mentioned
    },
}
"""Preset to the fields that it sets; a field that the YAML gives wins."""
