"""Run PPO on one side, ours or TRL's, in a process of its own: ``benchmarks.ppo_vs_trl`` starts it.

``python -m benchmarks.ppo_sides ORDER`` with ``Order`` as JSON. Both sides get the same weights,
the same prompts in the same order, the same lengths and the same hyper-parameters; the first
iterations warm up and are not counted. To add a way of training (low-rank adapters, say), give each
of ``OUR_MODELS`` and ``TRL_MODELS`` an entry.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import peak_memory
from benchmarks.side_by_side import Figures, answer
from benchmarks.subjects import SHAPES, draw_prompts

SEED = 0
LEARNING_RATE, KL_COEF, BETAS, EPSILON = 3e-6, 0.05, (0.9, 0.95), 1e-5


@dataclass(frozen=True)
class Order:
    """Say what a side has to do.

    Attributes:
        side: ``ours`` or ``trl``.
        mode: which weights are trained, a key of ``OUR_MODELS``.
        precision: ``float32`` or ``bf16``.
        shape: of all models, a key of ``subjects.SHAPES``.
        policy: folder of the policy.
        reward: folder of the reward model.
        prompt_tokens: of every prompt.
        max_new_tokens: limit of a completion.
        lengths: of the completions, one an episode, warm-up included, in the order of the rollouts.
        batch: episodes an iteration.
        epochs: passes over a rollout.
        minibatches: optimizer steps a pass.
        warm_up: iterations that are not counted.
        attention: transformers' kernel, of all models.
        threads: to compute with.
    """

    side: str
    mode: str
    precision: str
    shape: str
    policy: str
    reward: str
    prompt_tokens: int
    max_new_tokens: int
    lengths: list[int]
    batch: int
    epochs: int
    minibatches: int
    warm_up: int
    attention: str
    threads: int

    @property
    def iterations(self) -> int:
        """Return how many iterations the lengths are for."""
        return len(self.lengths) // self.batch


def load_plain(kind: Any, folder: str, order: Order, **options: Any) -> Any:
    """Load a model as transformers does, float32."""
    import torch

    return kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=order.attention, **options
    )


def load_our_full(order: Order, workers: Any) -> Any:
    """Load four whole models, all weights of policy and value model trained, no average."""
    from pipeline.models import load_policy, load_reward_model, new_value_model, set_attention
    from pipeline.ppo import Models

    reward_model = load_reward_model(Path(order.reward))
    models = Models(
        policy=load_policy(Path(order.policy)),
        ref_policy=workers.freeze(load_policy(Path(order.policy))),
        reward=reward_of(order, reward_model, workers),
        value_model=new_value_model(Path(order.reward)),
    )
    for model in (models.policy, models.ref_policy, reward_model, models.value_model):
        set_attention(model, order.attention, "ppo")  # type: ignore[arg-type]
    return models


def load_our_hydra(order: Order, workers: Any) -> Any:
    """Load one backbone with adapters of policy and reward model, the values a head on the policy.

    The reward model's adapter is new, so that it scores as the backbone does: what it says does not
    change its cost.
    """
    import torch

    from pipeline.config.hydra import HydraSection
    from pipeline.hydra import Branch, lora_config, new_head
    from pipeline.hydra_models import make_hydra
    from pipeline.models import load_policy, set_attention
    from pipeline.ppo import Models

    section = HydraSection(value="trunk")
    start = Path(order.policy)
    model = workers.freeze(load_policy(start))
    set_attention(model, order.attention, "ppo")  # type: ignore[arg-type]
    made = make_hydra(model, section, start=start, reward=None, averaged=False, seed=SEED)
    made.backbone.add("reward", lora_config(section.lora, start), seed=SEED, trained=False)
    head = new_head(model.config.hidden_size, model.dtype, bias=False)
    torch.nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(SEED))
    scorer = Branch(made.backbone, "reward", head=head.requires_grad_(False))
    return Models(made.policy, made.ref_policy, reward_of(order, scorer, workers), None)


def reward_of(order: Order, model: Any, workers: Any) -> Any:
    """Return a reward model as PPO takes it."""
    from pipeline.rewards import ModelReward

    return ModelReward(model, workers, name="reward", where="reward", batch_size=order.batch)


def load_trl_full(order: Order) -> dict[str, Any]:
    """Load four whole models as TRL's trainer takes them."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    scorer = AutoModelForSequenceClassification
    return {
        "model": load_plain(AutoModelForCausalLM, order.policy, order),
        "ref_model": load_plain(AutoModelForCausalLM, order.policy, order),
        "reward_model": load_plain(scorer, order.reward, order, num_labels=1),
        "value_model": load_plain(scorer, order.reward, order, num_labels=1),
    }


def load_trl_lora(order: Order) -> dict[str, Any]:
    """Load what TRL's trainer takes for a policy with adapters: the reference is their absence."""
    from peft import LoraConfig

    from pipeline.config.training import LoraSection

    ours = LoraSection()
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=ours.rank,
        lora_alpha=ours.alpha,
        lora_dropout=ours.dropout,
        target_modules=ours.target_modules,
    )
    return {**load_trl_full(order), "ref_model": None, "peft_config": adapters}


OUR_MODELS = {"full": load_our_full, "hydra": load_our_hydra}
TRL_MODELS = {"full": load_trl_full, "lora": load_trl_lora}


class Prompts:
    """The prompts of a run in the order of our rollouts, with the length of each one's completion.

    Args:
        order: what to do.
    """

    def __init__(self, order: Order) -> None:
        from pipeline.cursors import Cursor
        from pipeline.formatting import Formatter
        from pipeline.tokenizer import load_tokenizer

        self.formatter = Formatter(load_tokenizer(Path(order.policy)))
        vocabulary = SHAPES[order.shape].vocabulary
        self.prompts = draw_prompts(len(order.lengths), order.prompt_tokens, vocabulary, SEED)
        encoded = [self.formatter.prompt_ids(prompt.messages) for prompt in self.prompts]
        taken = Cursor(len(encoded), SEED, "prompts").take(0, len(encoded))
        self.in_order = [encoded[i] for i in taken]
        self.lengths = {
            tuple(ids): length for ids, length in zip(self.in_order, order.lengths, strict=True)
        }
        assert len(self.lengths) == len(encoded), "two prompts are the same; draw longer ones"

    def forced(self, order: Order) -> Any:
        """Return what makes the completions end at their lengths."""
        from benchmarks.forced_lengths import ForcedLengths

        formatter = self.formatter
        return ForcedLengths(
            self.lengths, order.prompt_tokens, formatter.end_id, [formatter.pad_id]
        )


def run_ours(order: Order) -> Figures:
    """Run our trainer, and time whole iterations and their phases."""
    from benchmarks.forced_lengths import in_our_sampler
    from pipeline.config.hydra import HydraSection
    from pipeline.config.ppo import PpoSection
    from pipeline.distributed import Workers
    from pipeline.ppo import PPOTrainer

    section = PpoSection(
        episodes=len(order.lengths),
        rollout_batch_size=order.batch,
        minibatch_size=order.batch // order.minibatches,
        micro_batch_size=order.batch,
        rollout_micro_batch_size=order.batch,
        num_ppo_epochs=order.epochs,
        max_new_tokens=order.max_new_tokens,
        kl_coef=KL_COEF,
        learning_rate=LEARNING_RATE,
        value_learning_rate=LEARNING_RATE,
        warmup_iterations=0,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        ptx_coef=0.0,
        ema_decay=None,
        precision=order.precision,  # type: ignore[arg-type]
        hydra=HydraSection(value="trunk") if order.mode == "hydra" else None,
    )
    subject, workers = Prompts(order), Workers(section.precision)
    trainer = PPOTrainer(
        section,
        workers,
        subject.formatter,
        OUR_MODELS[order.mode](order, workers),
        prompts=subject.prompts,
        ptx_sequences=None,
        seed=SEED,
    )
    stamps, rollouts, lengths = [time.perf_counter()], [], []
    with in_our_sampler(subject.forced(order)):
        for _ in range(order.iterations):
            figures = trainer.step()
            stamps.append(time.perf_counter())
            rollouts.append(figures["perf/rollout_seconds"])
            lengths.append(figures["objective/length"])
    return describe(order, stamps, rollouts, lengths)


def run_trl(order: Order) -> Figures:
    """Run TRL's trainer, and time whole iterations and their generation.

    ``bf16=True`` alone changes nothing here: TRL's trainer makes its own ``Accelerator``, which
    takes the precision from the environment, as ``accelerate launch --mixed_precision bf16`` sets
    it, and transformers 5 no longer sets it from its arguments. So it is set here.
    """
    if order.precision == "bf16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from benchmarks.forced_lengths import in_generate

    subject = Prompts(order)
    models = TRL_MODELS[order.mode](order)
    in_generate(models["model"], subject.forced(order))
    stamps: list[float] = []
    generation = Generation(models["model"], order.prompt_tokens)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

    tokenizer = subject.formatter.tokenizer
    data = Dataset.from_dict({"input_ids": subject.in_order})
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder,
            total_episodes=len(order.lengths),
            per_device_train_batch_size=order.batch,
            gradient_accumulation_steps=1,
            num_mini_batches=order.minibatches,
            local_rollout_forward_batch_size=order.batch,
            num_ppo_epochs=order.epochs,
            response_length=order.max_new_tokens,
            stop_token="eos",
            temperature=1.0,
            missing_eos_penalty=1.0,
            kl_coef=KL_COEF,
            vf_coef=1.0,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_epsilon=EPSILON,
            bf16=order.precision == "bf16",
            gradient_checkpointing=False,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=SEED,
        )
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            train_dataset=data,
            callbacks=[Clock()],
            **models,
        )
        # TRL shuffles; the prompts stand in the order of our rollouts already.
        in_order = DataLoader(data, batch_size=order.batch, collate_fn=trainer.data_collator)
        trainer.dataloader = trainer.accelerator.prepare(in_order)
        start = time.perf_counter()
        trainer.train()
    return describe(order, [start, *stamps], generation.seconds, generation.lengths)


class Generation:
    """Time a model's ``generate``, and note how long the completions were on average.

    Args:
        model: whose method is wrapped.
        prompt_tokens: of every prompt.
    """

    def __init__(self, model: Any, prompt_tokens: int) -> None:
        self.seconds: list[float] = []
        self.lengths: list[float] = []
        own = model.generate

        def generate(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            output = own(*args, **options)
            self.seconds.append(time.perf_counter() - start)
            completions = output.sequences[:, prompt_tokens:]
            padding = model.generation_config.pad_token_id
            self.lengths.append((completions != padding).sum(dim=1).double().mean().item())
            return output

        model.generate = generate


def describe(
    order: Order, stamps: list[float], rollouts: list[float], lengths: list[float]
) -> Figures:
    """Return what a side measured after its warm-up.

    Args:
        order: what was done.
        stamps: seconds, the start and the end of each iteration.
        rollouts: seconds that each iteration's generation took.
        lengths: mean tokens a completion of each iteration.
    """
    expected = [
        sum(min(length, order.max_new_tokens) for length in order.lengths[i : i + order.batch])
        / order.batch
        for i in range(0, len(order.lengths), order.batch)
    ]
    assert len(stamps) == order.iterations + 1, f"{order.iterations} iterations, {len(stamps)} ends"
    assert all(abs(a - b) < 1e-6 for a, b in zip(lengths, expected, strict=True)), (
        f"completions must have the given lengths ({expected}), got {lengths}"
    )
    counted = order.iterations - order.warm_up
    seconds = stamps[-1] - stamps[order.warm_up]
    return {
        "episodes_per_second": counted * order.batch / seconds,
        "seconds": seconds / counted,
        "rollout_seconds": sum(rollouts[order.warm_up :]) / counted,
        "peak_bytes": peak_memory(),
    }


def main() -> None:
    """Run one side."""
    import torch
    from transformers.utils import logging

    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(order.threads)
    logging.set_verbosity_error()
    sides = {"ours": run_ours, "trl": run_trl}
    answer(sides[order.side](order))


if __name__ == "__main__":
    main()
