from __future__ import annotations

import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import TrainerCallback

from pipeline.checkpointing import (
    Ordered,
    RunFolderTrainer,
    count_steps,
    epoch_order,
    training_arguments,
)
from pipeline.config.run import resolve
from pipeline.config.training import TrainingSection
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, RunError
from pipeline.runs import checkpoint_path, list_checkpoints, open_stage

ROWS = 10
STEPS = 8


class Killed(BaseException):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):  # noqa: ARG002
        if state.global_step == self.step:
            raise Killed


def collate(rows):
    ids = torch.stack(rows)
    return {"input_ids": ids, "labels": ids}


def collate_parts(rows):
    """Label the ends of the rows only, more or less of each."""
    ids = torch.stack(rows)
    starts = ids[:, :1] % 10
    return {"input_ids": ids, "labels": ids.where(torch.arange(ids.shape[1]) > starts, -100)}


@pytest.fixture
def rows(tiny_tokenizer):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(6, len(tiny_tokenizer), (ROWS, 12), generator=generator)


@pytest.fixture
def train(make_policy, rows):
    """Return a function that trains in a folder, and can be killed after a step."""

    def run(
        folder: Path,
        *,
        kill: int | None = None,
        model=None,
        dropout=0.1,
        collator=collate,
        **fields,
    ):
        defaults = {
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-3,
            "warmup_steps": 2,
            "precision": "float64",
            "checkpoint_every": 3,
            "log_every": 4,
        }
        section = TrainingSection(**{**defaults, **fields})
        crew = Workers(section.precision)
        config = resolve({"run_dir": str(folder), "base": "unused"})
        model = model or make_policy()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        with open_stage(config, "pretrain", crew=crew) as stage:
            arguments = training_arguments(
                section,
                stage.folder,
                steps=STEPS,
                seed=0,
                crew=crew,
                where="pretrain",
                eval_strategy="steps",
                eval_steps=2,
                metric_for_best_model="eval_loss",
            )
            trainer = RunFolderTrainer(
                stage,
                model,
                arguments,
                data_collator=collator,
                train_dataset=Ordered(rows, epoch_order(ROWS, STEPS * section.batch_size, seed=0)),
                eval_dataset=rows[:3],
                epoch_rows=ROWS,
                callbacks=[KillAfter(kill)],
            )
            trainer.fit()
            return trainer

    return run


def lines(folder: Path) -> list[dict]:
    text = (folder / "pretrain" / "metrics.jsonl").read_text()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("perf/")}
        for line in text.splitlines()
    ]


def weights(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_an_epoch_shows_every_row_once_and_no_two_epochs_alike():
    order = epoch_order(7, 21, seed=3).reshape(3, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in order)
    assert not np.array_equal(order[0], order[1])


def test_a_longer_training_begins_as_a_shorter_one():
    assert np.array_equal(epoch_order(7, 30, seed=3)[:11], epoch_order(7, 11, seed=3))
    assert not np.array_equal(epoch_order(7, 7, seed=3), epoch_order(7, 7, seed=4))


def test_steps_show_every_row_at_least_as_often_as_asked():
    assert count_steps(10, 1, 5) == 2
    assert count_steps(11, 1, 5) == 3
    assert count_steps(10, 0.5, 5) == 1
    assert count_steps(1, 0.01, 64) == 1
    assert count_steps(30, 0.1, 1) == 3  # 30 * 0.1 is a little above 3 in binary


@pytest.mark.parametrize("kill", [1, 3, 5, 8])
def test_a_killed_training_ends_bit_for_bit_as_an_uninterrupted_one(train, tmp_path, kill):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", kill=kill)
    resumed = train(tmp_path / "cut")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.restore_best() == whole.restore_best()


def test_every_checkpoint_and_validation_has_its_line(train, tmp_path):
    train(tmp_path)
    logged = [line["step"] for line in lines(tmp_path) if "loss" in line]
    assert logged == [2, 3, 4, 6, 8]  # validated at 2, 4, 6, 8; kept at 3, 6, 8; logged at 4, 8


def test_dropout_is_on_in_these_tests(train, tmp_path):
    # Without it the random state of a resume would not be tested.
    one = train(tmp_path / "a")
    row = torch.arange(6, 18)[None]
    one.model.train()
    first, second = (one.model(row).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_a_training_cut_after_its_last_checkpoint_only_closes(train, tmp_path):
    whole = train(tmp_path)  # the stage was not finished, as if killed while it saved its model
    before, logged = weights(whole), lines(tmp_path)
    again = train(tmp_path)
    assert lines(tmp_path) == logged
    assert again.last("loss") == whole.last("loss")
    assert all(torch.equal(value, before[name]) for name, value in weights(again).items())


@pytest.mark.parametrize("micro", [1, 4])
def test_accumulation_changes_no_number(train, tmp_path, micro):
    train(tmp_path / "a", dropout=0.0, micro_batch_size=micro)
    train(tmp_path / "b", dropout=0.0, micro_batch_size=2)
    for one, other in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        assert one == pytest.approx(other, rel=1e-10)


def test_the_logged_loss_is_the_mean_over_the_tokens_of_the_steps(train, tmp_path, rows):
    trainer = train(tmp_path, dropout=0.0, learning_rate=1e-30, log_every=1)
    logits = trainer.model.eval()(rows).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
    ).view(ROWS, -1)
    order = epoch_order(ROWS, STEPS * 4, seed=0).reshape(STEPS, 4)
    trained = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert trained == pytest.approx([losses[batch].mean().item() for batch in order], rel=1e-12)
    validated = next(line["eval_loss"] for line in lines(tmp_path) if "eval_loss" in line)
    assert validated == pytest.approx(losses[:3].mean().item(), rel=1e-12)


@pytest.mark.parametrize("micro", [1, 4])
def test_a_step_takes_the_mean_gradient_over_labelled_tokens(train, tmp_path, rows, micro):
    fields = {"learning_rate": 1e-30, "log_every": 1, "micro_batch_size": micro}
    trainer = train(tmp_path, dropout=0.0, collator=collate_parts, **fields)
    norms = [line["grad_norm"] for line in lines(tmp_path) if "grad_norm" in line]
    model = trainer.model.eval()
    expected = []
    for batch in epoch_order(ROWS, STEPS * 4, seed=0).reshape(STEPS, 4):
        labels = collate_parts([rows[i] for i in batch])["labels"][:, 1:]
        logprobs = model(rows[batch]).logits[:, :-1].log_softmax(-1)
        model.zero_grad()
        (-logprobs[labels >= 0, labels[labels >= 0]].mean()).backward()
        gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        expected.append(float(gradients.norm()))
    # HF's RMSNorm goes back through float32, in batches of other sizes.
    assert norms == pytest.approx(expected, rel=1e-5)


def test_validation_does_not_depend_on_its_batches(train, tmp_path, rows):
    trainer = train(tmp_path)
    labels = rows.clone()
    labels[0, :9] = -100  # rows of unequal weight

    def masked(batch):
        chosen = torch.stack([row for row, _ in batch])
        return {"input_ids": chosen, "labels": torch.stack([label for _, label in batch])}

    trainer.data_collator = masked
    pairs = list(zip(rows, labels, strict=True))
    means = []
    for size in (1, 3, 10):
        trainer.args.per_device_eval_batch_size = size
        means.append(trainer.mean_measures(pairs))
    assert means[0] == pytest.approx(means[1], rel=1e-12)
    assert means[0] == pytest.approx(means[2], rel=1e-12)


def test_the_learning_rate_warms_up_and_ends_at_its_share(train, tmp_path):
    train(tmp_path, log_every=1, min_lr_ratio=0.1)
    rates = [line["learning_rate"] for line in lines(tmp_path) if "loss" in line]
    assert rates[:3] == pytest.approx([0.0, 0.5e-3, 1e-3])
    assert rates == rates[:3] + sorted(rates[3:], reverse=True)
    last = 0.1 + 0.9 * (1 + math.cos(math.pi * 5 / 6)) / 2
    assert rates[-1] == pytest.approx(last * 1e-3)


def test_only_matrices_decay(train, tmp_path):
    trainer = train(tmp_path, weight_decay=0.1)
    decayed, kept = trainer.optimizer.param_groups
    assert {weight.dim() for weight in decayed["params"]} == {2}
    assert {weight.dim() for weight in kept["params"]} == {1}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_the_newest_and_the_best_checkpoint_are_kept(train, tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])

    def measure(self, rows):  # noqa: ARG001
        return {"loss": next(scores)}

    monkeypatch.setattr(RunFolderTrainer, "mean_measures", measure)
    trainer = train(tmp_path, keep_checkpoints=1, checkpoint_every=3)
    assert list_checkpoints(tmp_path / "pretrain") == [4, 8]
    before = weights(trainer)
    assert trainer.restore_best() == 4
    assert any(not torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert trainer.last("eval_loss", 4) == 1.0
    assert trainer.last("eval_loss") == 4.0


def test_a_checkpoint_holds_no_pickled_configuration(train, tmp_path):
    train(tmp_path)
    names = {file.name for file in checkpoint_path(tmp_path / "pretrain", STEPS).iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
    assert "training_args.bin" not in names
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(checkpoint_path(tmp_path / "pretrain", STEPS) / name, weights_only=True)


def test_a_truncated_checkpoint_is_refused(train, tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, kill=5)
    file = checkpoint_path(tmp_path / "pretrain", 4) / "optimizer.pt"
    with file.open("r+b") as opened:
        opened.truncate(100)
    with pytest.raises(RunError, match=r"step-00000004 is damaged: optimizer.pt has 100 bytes"):
        train(tmp_path)


def test_a_loss_that_is_not_finite_stops_before_it_is_taken_in(train, tmp_path, make_policy):
    model = make_policy()
    before = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.embed_tokens.weight[6:].fill_(float("nan"))
    with pytest.raises(RunError, match=r"must be finite, got nan in step 1\. Lower"):
        train(tmp_path, model=model)
    assert torch.equal(model.model.norm.weight, before)
    assert json.loads((tmp_path / "pretrain/manifest.json").read_text())["status"] == "failed"


def test_stages_of_one_process_may_differ_in_precision():
    assert Workers("float32").accelerator.mixed_precision == "no"
    assert Workers("bf16").accelerator.mixed_precision == "bf16"
    assert Workers("float64").accelerator.mixed_precision == "no"


def test_bf16_keeps_float32_weights(train, tmp_path, make_policy):
    trainer = train(tmp_path, precision="bf16", model=make_policy(dtype=torch.float32))
    assert next(trainer.model.parameters()).dtype == torch.float32
    exact = train(tmp_path / "32", precision="float32", model=make_policy(dtype=torch.float32))
    ours, theirs = trainer.last("eval_loss"), exact.last("eval_loss")
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.01)


def arguments(tmp_path, crew=None, **fields):
    section = TrainingSection(**fields)
    crew = crew or Workers()
    return training_arguments(section, tmp_path, steps=1, seed=0, crew=crew, where="sft")


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"warmup_step": 1}, "sft.trainer.warmup_step is no argument .* Did you mean 'warmup_ste"),
        ({"output_dir": "x"}, "sft.trainer.output_dir must be left out, got 'x'. Remove it"),
        ({"max_steps": 3}, "sft.trainer.max_steps must be left out, got 3"),
        ({"gradient_checkpointing": True}, "use activation_checkpointing"),
        ({"load_best_model_at_end": True}, "use the stage's select_by"),
        ({"optim": "adamm"}, "sft.trainer must hold what transformers.TrainingArguments accepts"),
        ({"report_to": "nowhere"}, "sft.trainer must hold .* Mend it: nowhere is not supported"),
        ({"deepspeed": "/none.json"}, "sft.trainer must hold .*got {'deepspeed': '/none.json'}"),
    ],
)
def test_a_wrong_passthrough_is_one_line(tmp_path, trainer, message):
    with pytest.raises(ConfigError, match=message) as caught:
        arguments(tmp_path, trainer=trainer)
    assert "\n" not in str(caught.value)


def test_a_passthrough_reaches_the_trainer(tmp_path):
    made = arguments(tmp_path, trainer={"optim": "adagrad", "lr_scheduler_type": "linear"})
    assert made.optim == "adagrad"
    assert made.lr_scheduler_type == "linear"


def test_a_batch_that_does_not_divide_names_the_nearest(tmp_path):
    crew = types.SimpleNamespace(world_size=3)
    message = r"sft.batch_size must be a multiple .* \(8 x 3\), got 32. Use 24 or 48."
    with pytest.raises(ConfigError, match=message):
        arguments(tmp_path, crew, batch_size=32, micro_batch_size=8)
