"""Run PPO's iterations: evaluate, watch, show samples, write checkpoints, and know when to stop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.doctor import Doctor
from pipeline.held_out import HeldOut, Selection, leave_out
from pipeline.ppo import PPOTrainer
from pipeline.records import Prompt
from pipeline.runs import StageRun

logger = logging.getLogger(__name__)


class PPOLoop:
    """Train to the end, or until held-out scores stop rising.

    Args:
        trainer: does the iterations.
        run: the stage's open folder; where it resumes, the trainer's models are those of its
            checkpoint already.
        eval_prompts: what to evaluate on; read only where ``ppo.eval_every`` is positive.

    Raises:
        ConfigError: if no ``eval_prompts`` are left beside the trainer's prompts.
        DataError: if one of them leaves no room for max_new_tokens in the context.
    """

    def __init__(
        self, trainer: PPOTrainer, run: StageRun, eval_prompts: Sequence[Prompt] = ()
    ) -> None:
        self.trainer, self.section, self.stage = trainer, trainer.section, run
        self.doctor, self.selection = Doctor(trainer.section), Selection()
        self.held_out: HeldOut | None = None
        if self.section.eval_every:
            kept = leave_out(eval_prompts, trainer.prompts, trainer.workers.world_size)
            self.held_out = HeldOut(trainer.sampler, kept, trainer.room, trainer.ask)
        self.best: dict[str, Tensor] = {}
        self.figures: dict[str, Any] = {}
        if run.resume_from:
            self.load_state(run.resume_from)

    @property
    def is_done(self) -> bool:
        """Tell whether the iterations are done, or the evaluations have stopped improving."""
        over = self.selection.is_over(self.section.patience)
        return over or self.trainer.iteration >= self.section.iterations

    def run(self) -> dict[str, Any]:
        """Run the iterations that are left, and return the last one's figures, without times.

        Afterwards the trainer's candidate is what the stage selects.
        """
        trainer, section = self.trainer, self.section
        while not self.is_done:
            figures: dict[str, Any] = trainer.step()
            iteration = trainer.iteration
            last = iteration == section.iterations
            if self.held_out is not None and (last or iteration % section.eval_every == 0):
                figures |= self.evaluate(self.held_out)
            figures |= self.consult(figures)
            self.figures = {k: v for k, v in figures.items() if not k.startswith("perf/")}
            self.stage.metrics.write(iteration, figures)
            if iteration % section.sample_every == 0 or self.is_done:
                self.show_samples()
            if iteration % section.checkpoint_every == 0 or self.is_done:
                with self.stage.checkpoint(iteration, section.keep_checkpoints) as folder:
                    self.save_state(folder)
        if self.best:
            self.restore(trainer.candidate)
        return self.figures

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Measure the candidate on held-out prompts, and keep its weights if it is the best.

        Its win rate is against the reference, which is the model of ``ppo.init``.
        """
        started, trainer = time.perf_counter(), self.trainer
        figures = held_out.measure(trainer.candidate, trainer.ref_policy)
        best = self.selection.note(trainer.iteration, figures["eval/scores"])
        # Rank 0 saves the model and the checkpoints: no other needs a copy.
        if best and self.section.select == "best_score" and trainer.workers.rank == 0:
            weights = trainer.candidate.named_parameters()
            self.best = {name: w.detach().to("cpu", copy=True) for name, w in weights}
        figures["eval/best_iteration"] = self.selection.best_iteration
        return {**figures, "perf/eval_seconds": time.perf_counter() - started}

    @torch.no_grad()
    def restore(self, candidate: Any) -> None:
        """Give the candidate the weights of the best evaluation."""
        for name, weight in candidate.named_parameters():
            weight.copy_(self.best[name])

    def consult(self, figures: dict[str, float]) -> dict[str, dict[str, str]]:
        """Return what the doctor finds in the figures, and say what is new."""
        findings = self.doctor.examine(figures)
        for sentence in self.doctor.news(findings):
            if self.trainer.workers.rank == 0:
                logger.warning(
                    "%s, iteration %d: %s", self.stage.name, self.trainer.iteration, sentence
                )
        return {"doctor": findings} if findings else {}

    def show_samples(self) -> None:
        """Write the fixed prompts' completions, so that change is visible."""
        trainer = self.trainer
        prompts = trainer.prompts[: self.section.sample_prompts]
        sampled = trainer.sampler.sample(trainer.policy, prompts)
        for prompt, completion in zip(prompts, sampled, strict=True):
            row = {**prompt.to_log(), "completion": completion.text}
            self.stage.samples.write(trainer.iteration, row)

    def save_state(self, folder: Path) -> None:
        """Write the trainer's state and the loop's own, from rank 0."""
        if self.trainer.workers.rank == 0:
            if self.best:
                save_file(self.best, folder / "best.safetensors")
            state = {
                "figures": self.figures,
                "doctor": self.doctor.state_dict(),
                "selection": self.selection.state_dict(),
            }
            # JSON keeps every double as it is.
            (folder / "loop.json").write_text(json.dumps(state), encoding="utf-8")
        self.trainer.save_state(folder)

    def load_state(self, folder: Path) -> None:
        """Go on from a checkpoint whose models the trainer already has."""
        self.trainer.load_state(folder)
        state = json.loads((folder / "loop.json").read_text(encoding="utf-8"))
        self.figures = state["figures"]
        self.doctor.load_state_dict(state["doctor"])
        self.selection.load_state_dict(state["selection"])
        if (best := folder / "best.safetensors").is_file() and self.trainer.workers.rank == 0:
            self.best = load_file(best)
