from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import fill_folder
from pipeline.checkpointing import IGNORED, RunFolderTrainer
from pipeline.config.run import resolve
from pipeline.config.sft import SftSection
from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.models import load_policy, save_model, set_attention
from pipeline.records import Demonstration, Prompt, read_jsonl
from pipeline.runs import open_stage
from pipeline.sft import collate_packed, encode_demonstrations, pack_rows, read_sft_data
from stages.sft import run

ROOT = Path(__file__).parents[2]
ANSWERS = ["the forest.", "a cat and 12 dogs.", "the town, in a boat.", "no."]


@pytest.fixture
def demonstrations() -> list[Demonstration]:
    return [
        Demonstration(Prompt.from_text(f"Where does Mia live, {i}?" + " Tell." * (i % 3)), answer)
        for i, answer in enumerate(ANSWERS * 6)
    ]


@pytest.fixture
def make_config(tmp_path, demonstrations, make_policy, tiny_tokenizer):
    """Return a function that makes a run whose base is done, and whose data are files."""
    data, held_out, text = (tmp_path / name for name in ("train.jsonl", "held.jsonl", "text.jsonl"))
    rows = [{"messages": shown.messages} for shown in demonstrations]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[:18]))
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows[18:]))
    text.write_text('{"text": "Mia lives in the forest. Tom has 12 red dogs."}\n')

    def make(folder: str = "run", dtype: torch.dtype = torch.float64, **fields):
        section = {
            "data": [str(data)],
            "validation": [str(held_out)],
            "epochs": 3,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "precision": "float64",
            "max_length": 64,
            "log_every": 1,
            "checkpoint_every": 2,
        }
        tree = {"run_dir": str(tmp_path / folder), "seed": 1, "base": "given"}
        tree["pretrain"] = {"sources": [str(text)]}
        config = resolve({**tree, "sft": {**section, **fields}})
        with open_stage(config, "pretrain") as stage:
            if not stage.skip:
                stage.save_model(
                    lambda path: save_model(path, make_policy(0, dtype), tiny_tokenizer, "# B\n")
                )
                stage.finish({})
        return config

    return make


def manifest(config) -> dict:
    return json.loads((config.run_dir / "sft" / "manifest.json").read_text())


def lines(config) -> list[dict]:
    rows = read_jsonl(config.run_dir / "sft" / "metrics.jsonl")
    return [
        {key: value for key, value in row.items() if not key.startswith("perf/")} for _, row in rows
    ]


def kill(monkeypatch, config, step: int) -> None:
    train = RunFolderTrainer.training_step

    def killed(self, *args, **options):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return train(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolderTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, "sft")


def measured(model, rows, pad_id: int):
    """Return the loss of all rows together, and the gradients."""
    batch = collate_packed(pad_id)([rows[i] for i in range(len(rows))])
    share = RunFolderTrainer.measure(None, model, batch)["loss"]
    model.zero_grad()
    (share.total / share.items).backward()
    return share, {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_changes_neither_loss_nor_gradient(
    attention, make_policy, tiny_formatter, demonstrations
):
    model = make_policy()
    set_attention(model, attention, "sft")
    examples = encode_demonstrations(demonstrations, tiny_formatter, 64, "sft.data")
    apart = pack_rows(examples, None)
    packed = pack_rows(examples, 64)
    assert len(packed) < len(apart) / 2
    assert max(len(row["seq_lengths"]) for row in packed) > 1
    one, gradients = measured(model, apart, tiny_formatter.pad_id)
    two, packed_gradients = measured(model, packed, tiny_formatter.pad_id)
    assert one.items == two.items
    assert two.total.item() == pytest.approx(one.total.item(), abs=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(packed_gradients[name], gradient, rtol=0, atol=1e-6), name


def test_packing_is_measured_by_more_than_the_position(make_policy, tiny_formatter, demonstrations):
    # The law above would hold for a model blind to its context: show that this one is not.
    examples = encode_demonstrations(demonstrations, tiny_formatter, 64, "sft.data")
    packed = pack_rows(examples, 64)
    batch = collate_packed(tiny_formatter.pad_id)([packed[0]])
    model = make_policy()
    apart = RunFolderTrainer.measure(None, model, batch)["loss"].total
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
    together = RunFolderTrainer.measure(None, model, batch)["loss"].total
    assert (apart - together).abs() > 1e-3


def test_padding_and_the_order_of_rows_change_no_loss(make_policy, tiny_formatter, demonstrations):
    model = make_policy()
    examples = encode_demonstrations(demonstrations, tiny_formatter, 64, "sft.data")
    rows = pack_rows(examples, None)
    together, _ = measured(model, rows, tiny_formatter.pad_id)
    one_by_one = sum(
        measured(model, rows.select([i]), tiny_formatter.pad_id)[0].total for i in range(len(rows))
    )
    assert one_by_one.item() == pytest.approx(together.total.item(), abs=1e-9)
    backwards, _ = measured(model, rows.select(range(len(rows))[::-1]), tiny_formatter.pad_id)
    assert backwards.total.item() == pytest.approx(together.total.item(), abs=1e-9)


def test_labels_are_the_assistants_tokens_of_the_rendered_chat(tiny_formatter, demonstrations):
    examples = encode_demonstrations(demonstrations, tiny_formatter, 64, "sft.data")
    for shown, row in zip(demonstrations, examples, strict=True):
        rendered = tiny_formatter.tokenizer.apply_chat_template(
            shown.messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert row["input_ids"] == rendered["input_ids"]
        expected = [
            token if written else IGNORED
            for token, written in zip(
                rendered["input_ids"], rendered["assistant_masks"], strict=True
            )
        ]
        assert row["labels"] == expected


def test_a_collated_row_starts_again_at_each_example():
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]}
    short = {"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [2]}
    batch = collate_packed(0)([row, short])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 1, 2]]
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
    no = IGNORED
    assert batch["labels"].tolist() == [[no, 6, no, 8, 9], [no, 6, no, no, no]]
    assert batch["tokens"] == 7


def test_examples_that_are_too_long_are_counted_and_the_first_named(tiny_formatter, demonstrations):
    lengths = [len(tiny_formatter.conversation(shown.messages).ids) for shown in demonstrations]
    limit = sorted(set(lengths))[-2]
    first = next(length for length in lengths if length > limit)
    count = sum(length > limit for length in lengths)
    message = rf"sft.data: .* \({limit}\) tokens, got {count} longer, the first with {first} tokens"
    with pytest.raises(DataError, match=message):
        encode_demonstrations(demonstrations, tiny_formatter, limit, "sft.data")


def test_a_share_of_the_rows_is_pretraining_text(make_config, tiny_formatter):
    config = make_config(packing=False, pretrain_mix=0.1)
    section = config.section("sft", SftSection)
    sources = config.stages["pretrain"].sources
    data = read_sft_data(section, tiny_formatter, pretrain_sources=sources, seed=1, where="sft")
    assert (data.examples, data.pretrain_rows, len(data.train)) == (18, 2, 20)
    for row in data.train.select([18, 19]):
        assert row["labels"] == row["input_ids"]
        assert len(row["input_ids"]) == 64


def test_a_mix_without_sources_is_refused(make_config, tiny_formatter):
    section = make_config(pretrain_mix=0.1).section("sft", SftSection)
    with pytest.raises(ConfigError, match=r"sft.pretrain_mix must be 0 when pretrain.sources is"):
        read_sft_data(section, tiny_formatter, pretrain_sources=[], seed=1, where="sft")


def test_no_data_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"sft.data must list at least one source"):
        run(make_config(data=[], validation=[]), "sft")


def test_a_length_beyond_the_context_is_refused(make_config):
    message = r"sft.max_length must be at most the model's context \(64\), got 65. Lower it."
    with pytest.raises(ConfigError, match=message):
        run(make_config(max_length=65), "sft")


@pytest.mark.parametrize("packing", [True, False])
def test_demonstrations_are_learned(make_config, packing):
    config = make_config(packing=packing)
    run(config, "sft")
    validated = [line["eval_loss"] for line in lines(config) if "eval_loss" in line]
    assert validated[-1] < validated[0] - 0.3
    assert manifest(config)["metrics"]["examples"] == 18
    assert list(manifest(config)["parents"]) == ["pretrain"]


def test_the_checkpoint_is_chosen_by_its_metric(make_config):
    # A rate that overshoots: the best validation is not the last.
    config = make_config(learning_rate=0.3, min_lr_ratio=1.0, keep_checkpoints=1, evaluate_every=1)
    run(config, "sft")
    validated = {line["step"]: line["eval_loss"] for line in lines(config) if "eval_loss" in line}
    best = min(validated, key=validated.__getitem__)
    assert best != max(validated)
    assert manifest(config)["metrics"]["selected_step"] == best
    assert manifest(config)["metrics"]["eval_loss"] == validated[best]
    kept = config.run_dir / "sft" / "checkpoints" / f"step-{best:08d}"
    chosen = load_policy(config.run_dir / "sft" / "model", torch.float64).state_dict()
    expected = load_policy(kept, torch.float64).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in chosen.items())


def test_without_a_metric_the_last_weights_are_kept(make_config):
    config = make_config(learning_rate=0.3, min_lr_ratio=1.0, select_by="last", evaluate_every=1)
    run(config, "sft")
    assert manifest(config)["metrics"]["selected_step"] == manifest(config)["metrics"]["steps"]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "dropout": 0.1}])
def test_a_killed_stage_ends_as_an_uninterrupted_one(make_config, monkeypatch, capfd, lora):
    whole, cut = make_config("whole", lora=lora), make_config("cut", lora=lora)
    run(whole, "sft")
    kill(monkeypatch, cut, step=manifest(whole)["metrics"]["steps"] - 1)
    capfd.readouterr()
    run(cut, "sft")
    assert capfd.readouterr().err == ""
    assert lines(cut) == lines(whole)
    assert manifest(cut)["metrics"] == manifest(whole)["metrics"]
    for file in ("sft/model/model.safetensors", "sft/samples.jsonl"):
        assert (cut.run_dir / file).read_bytes() == (whole.run_dir / file).read_bytes()


# PEFT asks the model by a name that transformers 5 is about to drop.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_merged_adapters_compute_what_the_unmerged_did(make_config, make_policy):
    from peft import PeftModel

    config = make_config(lora={"rank": 4, "target_modules": ["q_proj", "down_proj"]})
    run(config, "sft")
    step = manifest(config)["metrics"]["selected_step"]
    adapter = config.run_dir / "sft" / "checkpoints" / f"step-{step:08d}"
    base = make_policy()
    ids = torch.arange(6, 30)[None]
    untrained = base(ids).logits
    unmerged = PeftModel.from_pretrained(base, adapter).double()(ids).logits
    merged = load_policy(config.run_dir / "sft" / "model", torch.float64)(ids).logits
    assert torch.allclose(merged, unmerged, rtol=0, atol=1e-9)
    assert (merged - untrained).abs().max() > 1e-2


def test_the_model_loads_in_a_process_without_this_project(make_config, tmp_path):
    config = make_config(lora={"rank": 4}, precision="float32", epochs=1)
    run(config, "sft")
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]); "
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]); "
        "assert 'pipeline' not in sys.modules and 'peft' not in str(type(model)); "
        "print(type(model).__name__, bool(tokenizer.chat_template), model.dtype)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, config.run_dir / "sft" / "model"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["LlamaForCausalLM", "True", "torch.float32"], done.stderr


def test_nothing_is_sent_home(make_config, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "trl.trainer.base_trainer.send_telemetry", lambda *_, **options: sent.append(options)
    )
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("CI", raising=False)
    run(make_config("quiet", epochs=1), "sft")
    assert not sent
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    run(make_config("asked", epochs=1), "sft")
    assert sent


def test_an_optimizer_that_is_not_installed_is_refused(make_config):
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(
        ConfigError, match=r"^sft\.trainer\.optim must be an optimizer that is inst"
    ):
        run(make_config(trainer={"optim": "adamw_bnb_8bit"}), "sft")


def test_adapters_of_a_layer_that_is_not_there_are_refused(make_config):
    with pytest.raises(ConfigError, match=r"^sft\.lora\.target_modules must name layers"):
        run(make_config(lora={"target_modules": ["nope"]}), "sft")


def test_a_parent_without_weights_is_refused(make_config):
    config = make_config()
    with fill_folder(config.run_dir / "pretrain" / "model"):
        pass
    with pytest.raises(ModelError, match=r"No model in .*holds no .safetensors"):
        run(config, "sft")
    assert not (config.run_dir / "sft" / "model").exists()


@pytest.mark.distributed
def test_two_processes_train_as_one(make_config, tmp_path):
    alone, together = (make_config(name, pretrain_mix=0.3) for name in ("alone", "together"))
    run(alone, "sft")
    path = tmp_path / "run.yaml"
    path.write_text(together.dump())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", ROOT / "configs/accelerate/cpu-2.yaml"),
            *("--main_process_port", "0", "-m", "stages.sft", path),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (manifest(alone)["world_size"], manifest(together)["world_size"]) == (1, 2)
    for one, two in zip(lines(alone), lines(together), strict=True):
        assert two == pytest.approx(one, abs=1e-6)
