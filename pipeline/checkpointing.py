"""Bridge ``transformers.Trainer`` and our run folders, so that a cut training resumes exactly.

``RunFolderTrainer`` replaces what Trainer does to the disk and how it reduces numbers; the loop,
the optimizer, FSDP and DeepSpeed stay Trainer's. ``training_arguments`` maps our configuration on
it.

Departures from ``Trainer``:
1. A checkpoint is written by all processes under a temporary name, hashed and renamed.
2. Figures go to ``metrics.jsonl``; every checkpoint and validation has a line of its own, so that a
   resumed run logs the same lines as an uninterrupted one.
3. Rows come in one fixed order that is a function of the seed (``epoch_order``): every batch is
   whole, and neither the number of processes nor accumulation moves a row to another step.
4. Losses and validation metrics are sums divided by global counts, in the precision of the weights.
5. A loss that is not finite stops the stage before the optimizer takes it in.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import get_reporting_integration_callbacks

from pipeline.config.training import TrainingSection
from pipeline.distributed import Workers, use_cpu
from pipeline.errors import ConfigError, RunError, nearest
from pipeline.runs import StageRun, checkpoint_path, list_checkpoints

IGNORED = -100
"""The label of a token that the loss leaves out, as in ``transformers``."""

OVERRIDABLE = {
    "optim",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "report_to",
    "disable_tqdm",
    "dataloader_num_workers",
    "per_device_eval_batch_size",
    "ddp_find_unused_parameters",
}
"""What ``trainer:`` may set although this module has its own value."""

REFUSED = {
    "num_train_epochs": "the stage's own epochs or tokens set the length",
    "fp16": "use precision",
    "gradient_checkpointing": "use activation_checkpointing of the stage",
    "label_smoothing_factor": "the losses here have none",
    "auto_find_batch_size": "it would change batch_size",
    "dataloader_drop_last": "every batch is whole here",
    "ignore_data_skip": "a resumed run would repeat rows",
    "save_only_model": "a checkpoint must hold all that a resume needs",
    "load_best_model_at_end": "use the stage's select_by",
    "resume_from_checkpoint": "the run folder decides",
    "push_to_hub": "upload the finished model folder instead",
    "compute_metrics": "the stage has its own metrics",
}
"""Training arguments that contradict how stages work, with the reason."""


class Share(NamedTuple):
    """A metric's part in one batch: the sum over its items, and how many there are."""

    total: Tensor
    items: Tensor


class Ordered(Dataset[Any]):
    """Show rows in a given order; indexable, so that a resume skips without reading."""

    def __init__(self, rows: Any, order: np.ndarray) -> None:
        self._rows = rows
        self._order = order

    def __len__(self) -> int:
        """Count the rows shown, repetitions included."""
        return len(self._order)

    def __getitem__(self, index: int) -> Any:
        """Return the row at a place of the order."""
        return self._rows[int(self._order[index])]


def count_steps(rows: int, epochs: float, batch_size: int) -> int:
    """Return the optimizer steps that show every row ``epochs`` times, the last one filled up."""
    return max(1, math.ceil(rows * epochs / batch_size - 1e-9))


def epoch_order(rows: int, length: int, seed: int) -> np.ndarray:
    """Concatenate shuffles of all rows, each keyed by (seed, epoch), cut to ``length`` places.

    Returns:
        Row indices, [length].
    """
    epochs = math.ceil(length / rows)
    shuffles = [np.random.default_rng([seed, epoch]).permutation(rows) for epoch in range(epochs)]
    return np.concatenate(shuffles)[:length]


def training_arguments(
    section: TrainingSection,
    folder: Path,
    *,
    steps: int,
    seed: int,
    crew: Workers,
    where: str,
    kind: type = TrainingArguments,
    **fixed: Any,
) -> Any:
    """Map a stage's section on ``TrainingArguments``, its ``trainer:`` mapping passed through.

    Args:
        section: the stage's configuration.
        folder: the stage's folder.
        steps: optimizer steps of the whole training.
        seed: the run's seed.
        crew: the processes at work.
        where: the section's name, for messages.
        kind: ``TrainingArguments`` or a subclass.
        fixed: further arguments that the stage decides and the user may not.
    Raises:
        ConfigError: if the batch cannot be divided over the processes, or ``trainer:`` names an
            unknown argument, one that contradicts ours, or a value that Trainer refuses.
    """
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": section.micro_batch_size,
        "per_device_eval_batch_size": section.micro_batch_size,
        "gradient_accumulation_steps": _accumulation(section, crew, where),
        "average_tokens_across_devices": True,
        "optim": "adamw_torch_fused",
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "warmup_steps": section.warmup_steps,
        "weight_decay": section.weight_decay,
        "adam_beta1": section.adam_beta1,
        "adam_beta2": section.adam_beta2,
        "adam_epsilon": section.adam_epsilon,
        "max_grad_norm": section.max_grad_norm,
        "bf16": section.precision == "bf16",
        "activation_checkpointing": section.activation_checkpointing,
        "seed": seed,
        "data_seed": seed,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        # Written into the saved model's configuration; `measure` itself goes without.
        "use_cache": True,
        "dataloader_num_workers": 0,
        "logging_strategy": "steps",
        "logging_steps": section.log_every,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "no",
        "save_strategy": "steps",
        "save_steps": section.checkpoint_every,
        "save_total_limit": section.keep_checkpoints,
        "eval_strategy": "no",
        "report_to": "none",
        "use_cpu": use_cpu(),
        "disable_tqdm": not sys.stdout.isatty(),
        "ddp_find_unused_parameters": False,
        "accelerator_config": {"use_configured_state": True},
        **fixed,
    }
    passed = dict(section.trainer)
    _check_passthrough(passed, ours, where)
    if "lr_scheduler_type" not in passed:
        ours["lr_scheduler_kwargs"] = {"min_lr_rate": section.min_lr_ratio}
    try:
        arguments = kind(**{**ours, **passed})
        # A reporter whose package is not there would stop the stage once it is open.
        for reporter in get_reporting_integration_callbacks(arguments.report_to):
            reporter()
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if not passed:
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{where}.trainer must hold what transformers.TrainingArguments accepts, "
            f"got {passed!r}. Mend it: {reason}"
        ) from error
    # The launcher's default must not contradict the stage's own precision.
    arguments.mixed_precision = "bf16" if section.precision == "bf16" else "no"
    return arguments


def _accumulation(section: TrainingSection, crew: Workers, where: str) -> int:
    together = section.micro_batch_size * crew.world_size
    if section.batch_size % together:
        below = section.batch_size // together * together
        sizes = " or ".join(str(size) for size in (below, below + together) if size)
        raise ConfigError(
            f"{where}.batch_size must be a multiple of micro_batch_size x processes "
            f"({section.micro_batch_size} x {crew.world_size}), got {section.batch_size}. "
            f"Use {sizes}."
        )
    return section.batch_size // together


def _check_passthrough(passed: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> None:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name, value in passed.items():
        path = f"{where}.trainer.{name}"
        if name not in known:
            raise ConfigError(
                f"{path} is no argument of transformers.TrainingArguments.{nearest(name, known)}"
            )
        decided = name in ours and name not in OVERRIDABLE
        if decided or name.removesuffix("_kwargs") in REFUSED:
            reason = REFUSED.get(name, "the stage's other fields decide it")
            raise ConfigError(f"{path} must be left out, got {value!r}. Remove it: {reason}.")


class _LogWhereStateIsKept(TrainerCallback):
    """Log at every checkpoint and validation, so that no sum of losses is open across a resume."""

    def on_step_end(
        self,
        args: Any,  # noqa: ARG002 - Trainer calls with these names
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        **_: Any,
    ) -> TrainerControl:
        """Ask for a line if the step is validated or saved."""
        if control.should_save or control.should_evaluate:
            control.should_log = True
        return control


class RunFolderTrainer(Trainer):
    """Train with checkpoints, metrics and resumption in a stage's run folder.

    A language model trains on it as it is: a batch has ``input_ids``, ``labels``, what else the
    model takes, and ``tokens``, the number of real ones, where it is padded without a mask. Another
    loss overrides ``measure`` and ``count_items``.

    Args:
        run: the stage's open folder; its crew must be ``Workers``.
        epoch_rows: rows of one epoch, for the logged ``epoch``.
    """

    # `compute_loss` divides by the items of the whole step, over accumulation and processes.
    loss_is_scaled_for_ga = True

    def __init__(self, run: StageRun, *args: Any, epoch_rows: int, **options: Any) -> None:
        assert isinstance(run.crew, Workers), "a trained stage runs on Workers"
        self._run = run
        self._crew = run.crew
        self._epoch_rows = epoch_rows
        self._clock = time.monotonic()
        self._tokens_logged = 0
        self.control = TrainerControl()
        super().__init__(*args, **options)
        self.remove_callback(PrinterCallback)
        self.add_callback(_LogWhereStateIsKept())

    def fit(self) -> None:
        """Train to the end, from the run's checkpoint if it has one."""
        start = self._run.resume_from
        self.train(resume_from_checkpoint=str(start) if start else None)

    # What is measured

    def measure(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Share]:
        """Return the sums of one batch; ``loss`` must be among them.

        loss = -log p(x_t | x_<t), summed over the tokens whose label is not ignored. Validation
        measures the accuracy of the likeliest token as well.

        Args:
            model: the model, wrapped or not.
            inputs: a batch on the model's device.
        """
        given = {key: inputs[key] for key in inputs if key not in ("labels", "tokens")}
        logits = model(**given, use_cache=False).logits[:, :-1]
        labels = inputs["labels"][:, 1:]
        counted = labels != IGNORED
        # bfloat16 sums lose digits; float64 must keep its own.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        shares = {"loss": Share(loss, counted.sum())}
        if not torch.is_grad_enabled():
            right = (logits.argmax(-1) == labels) & counted
            shares["mean_token_accuracy"] = Share(right.sum(), counted.sum())
        return shares

    def count_items(self, batch: Mapping[str, Any]) -> int:
        """Count what the batch's loss is averaged over: the labelled tokens."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def count_tokens(self, batch: Mapping[str, Any]) -> int:
        """Count the batch's real tokens: as it says in ``tokens``, else those of its mask."""
        if "tokens" in batch:
            return int(batch["tokens"])
        mask = batch.get("attention_mask")
        return int(batch["input_ids"].numel() if mask is None else mask.sum())

    # What Trainer asks for

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Return this micro-batch's share of the step's mean loss.

        share = processes * sum(losses here) / count(items of the step everywhere)

        The gradients of the processes are averaged, which takes the factor out again.
        """
        assert not return_outputs, "validation goes through `evaluate` alone"
        assert num_items_in_batch is not None, "the items of a step are counted before its loss"
        loss: Tensor = self.measure(model, inputs)["loss"].total
        share: Tensor = loss * self._crew.world_size / num_items_in_batch
        return share

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        counts = torch.tensor(
            [
                sum(self.count_items(batch) for batch in batch_samples),
                sum(self.count_tokens(batch) for batch in batch_samples),
            ],
            device=device,
        )
        counts = self._crew.total(counts)
        self.state.num_input_tokens_seen += int(counts[1])
        return counts[0].clamp(min=1)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        # Trainer sums the losses in float32 whatever the weights are.
        dtype = next(self.model.parameters()).dtype
        self._tr_loss = torch.zeros((), dtype=dtype, device=self.args.device)
        self._clock, self._tokens_logged = time.monotonic(), self.state.num_input_tokens_seen
        super()._run_epoch(*args, **options)

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """Run one micro-batch forward and backward.

        Raises:
            RunError: if the loss is not finite.
        """
        loss: Tensor = super().training_step(*args, **options)
        if not torch.isfinite(loss):
            raise RunError(
                f"The loss of {self._run.name} must be finite, got {loss.item()} in step "
                f"{self.state.global_step + 1}. Lower learning_rate or raise warmup_steps."
            )
        return loss

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """Make the optimizer.

        Raises:
            ConfigError: if its package is not installed.
        """
        try:
            optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **options)
        except ImportError as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"{self._run.name}.trainer.optim must be an optimizer that is installed, "
                f"got '{self.args.optim}'. Mend it: {reason}"
            ) from error
        return optimizer

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Say nothing: tied weights are saved once, and a checkpoint's files were verified."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the matrices' names: vectors (norms, biases) do not decay (LLaMA)."""
        return [name for name, weight in model.named_parameters() if weight.dim() >= 2]

    def evaluate(
        self,
        eval_dataset: Sequence[Any] | None = None,
        ignore_keys: list[str] | None = None,  # noqa: ARG002 - Trainer calls with this name
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure a data set, every row once whatever the number of processes, and log it."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        means = self.mean_measures(rows)
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in means.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()
    def mean_measures(self, rows: Sequence[Any]) -> dict[str, float]:
        """Average every measure over all rows and processes."""
        size = self.args.per_device_eval_batch_size
        starts = range(0, len(rows), size)
        sums: dict[str, Tensor] = {}
        self.model.eval()
        for first in range(0, len(starts), self._crew.world_size):
            mine = first + self._crew.rank
            # A process without a batch left repeats the first one, uncounted: a sharded model
            # needs every process in every forward pass.
            start = starts[mine] if mine < len(starts) else 0
            batch = self.data_collator(
                [rows[i] for i in range(start, min(start + size, len(rows)))]
            )
            with self.compute_loss_context_manager():
                shares = self.measure(self.model, self._prepare_inputs(batch))
            for name, share in shares.items():
                part = torch.stack([share.total.double().cpu(), share.items.double().cpu()])
                sums[name] = sums.get(name, torch.zeros_like(part)) + part * (mine < len(starts))
        return {name: self._mean(part) for name, part in sums.items()}

    def _mean(self, part: Tensor) -> float:
        if self._crew.world_size > 1:
            part = self._crew.total(part.to(self._crew.device))
        total, count = part.tolist()
        return float(total / max(count, 1.0))

    # What is written

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002
        """Write one line of ``metrics.jsonl``; Trainer's closing summary of times is left out."""
        if "train_runtime" in logs:
            return
        logs["epoch"] = self.state.global_step * self._rows_per_step() / self._epoch_rows
        logs["tokens"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**logs, "step": self.state.global_step})
        now = time.monotonic()
        if "loss" in logs:
            gained = self.state.num_input_tokens_seen - self._tokens_logged
            logs["perf/tokens_per_second"] = gained / max(now - self._clock, 1e-9)
        self._clock, self._tokens_logged = now, self.state.num_input_tokens_seen
        self._run.metrics.write(self.state.global_step, logs)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def _rows_per_step(self) -> int:
        size: int = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return size * self._crew.world_size

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best: bool = super()._determine_best_metric(metrics, trial)
        # The best weights are those of a checkpoint, so that they survive a kill.
        self.control.should_save = self.control.should_save or best
        return best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ARG002
        """Write a sealed checkpoint, by all processes."""
        step = self.state.global_step
        self.store_flos()
        older = len(list_checkpoints(self._run.folder))
        with self._run.checkpoint(step, keep=older + 1) as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            if self.args.should_save:
                # A pickle, and never read: the configuration stands in config.yaml.
                (folder / "training_args.bin").unlink(missing_ok=True)
                self.state.save_to_json(str(folder / "trainer_state.json"))
        self._crew.on_main(self._remove_older)

    def _remove_older(self) -> None:
        steps = list_checkpoints(self._run.folder)
        for step in steps[: -self.args.save_total_limit]:
            if step != self.state.best_global_step:
                shutil.rmtree(checkpoint_path(self._run.folder, step))

    # What a stage reads in the end

    def restore_best(self) -> int:
        """Load the weights that scored best, and return their step; the last without a metric."""
        best = self.state.best_global_step
        if best is None or best == self.state.global_step:
            return int(self.state.global_step)
        model = self.model_wrapped if self.is_fsdp_enabled else None
        self._load_from_checkpoint(str(checkpoint_path(self._run.folder, best)), model)
        return int(best)

    def last(self, key: str, step: int | None = None) -> float | None:
        """Return the last logged value of a metric, or that of one step, also before a resume."""
        lines = [line for line in self.state.log_history if step in (None, line["step"])]
        logged = [line[key] for line in lines if key in line]
        return float(logged[-1]) if logged else None
