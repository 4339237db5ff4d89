"""Bad input ends a command with one clear line and exit code 2, and overwrites nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from pipeline.records import Prompt
from stages.cli import main

MICRO = Path(__file__).with_name("micro.yaml")


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock" and file.suffix not in (".db-shm", ".db-wal")
    }


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    """Return a copy of a finished run, to be broken."""
    copy = tmp_path / "run"
    shutil.copytree(finished.run_dir, copy)
    return copy


@pytest.fixture
def refuse(run_dir, capfd) -> Callable[..., str]:
    """Return a function that runs a command, and checks how it is refused; gives the line."""

    def check(stage: str, *overrides: str, folder: Path | None = None, force: bool = True) -> str:
        before = fingerprint(run_dir)
        words = [stage, str(MICRO), f"run_dir={folder or run_dir}", *overrides]
        assert main([*words, *(["--force"] if force else [])]) == 2
        said = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        assert len(said) == 1, said
        assert said[0].startswith("steerline: ")
        assert "Traceback" not in said[0]
        assert fingerprint(run_dir) == before
        return said[0]

    return check


def write_rows(path: Path, *rows: object) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


GOOD = {"prompt": "Where does Mia live?", "completion": "Mia lives in Rome."}


def test_an_unknown_key_names_the_nearest(refuse):
    line = refuse("ppo", "ppo.kl_coeff=0.1")
    assert "ppo.kl_coeff" in line
    assert "Did you mean 'kl_coef'?" in line


def test_a_string_where_a_number_belongs(refuse):
    line = refuse("ppo", "ppo.kl_coef=much")
    assert "ppo.kl_coef must be number" in line
    assert "'much'" in line


def test_an_engine_that_is_not_there(refuse, monkeypatch):
    monkeypatch.setattr("pipeline.engines.use_cpu", lambda: True)
    assert refuse("ppo", "ppo.engine.kind=vllm") == (
        "steerline: ppo.engine.kind: vllm needs vllm and a GPU. "
        "Install steerline[vllm], or set kind: hf."
    )


def test_a_missing_data_file(refuse, tmp_path):
    missing = tmp_path / "nowhere.jsonl"
    assert str(missing) in refuse("sft", f"sft.data=[{missing}]")


def test_malformed_jsonl_names_file_and_line(refuse, tmp_path):
    path = write_rows(tmp_path / "bad.jsonl", GOOD, '{"prompt": "cut')
    assert f"{path}:2" in refuse("sft", f"sft.data=[{path}]")


def test_an_empty_completion_names_file_and_line(refuse, tmp_path):
    path = write_rows(tmp_path / "empty.jsonl", GOOD, {**GOOD, "completion": "  "})
    line = refuse("sft", f"sft.data=[{path}]")
    assert f"{path}:2" in line
    assert "empty" in line


def test_a_prompt_longer_than_the_context(refuse, tmp_path):
    long = [{"prompt": "Mia lives in Rome. " * times} for times in (60, 90)]
    path = write_rows(tmp_path / "long.jsonl", GOOD, *long)
    line = refuse("ppo", f"ppo.prompts=[{path}]")
    assert "ppo.prompts: a prompt must have at most 116 tokens" in line
    assert "the longest of 2 among 3" in line
    assert Prompt.from_text(long[1]["prompt"]).id in line


def test_prompts_that_repeat_are_left_out_and_counted(run_dir, make_line, tmp_path):
    rows = [{"prompt": f"Where does {name} live?"} for name in ("Mia", "Tom", "Mia", "Ann", "Mia")]
    path = write_rows(tmp_path / "again.jsonl", *rows)
    done = make_line(run_dir).run("ppo", f"ppo.prompts=[{path}]", "--force")
    assert done.returncode == 0, done.stderr
    first = Prompt.from_text("Where does Mia live?")
    said = (
        f"steerline: {path}: left out duplicate prompts: 2, the first {first.id} "
        "('Where does Mia live?'...)"
    )
    assert said in done.stderr.splitlines()
    shown = (run_dir / "ppo/samples.jsonl").read_text().splitlines()
    asked = [json.loads(line)["prompt"] for line in shown]
    assert len({json.dumps(prompt) for prompt in asked}) == 3


def test_completions_longer_than_the_context(refuse):
    line = refuse("evaluate", "evaluate.decoding.max_new_tokens=128")
    assert "max_new_tokens must leave room for a prompt in the model's context" in line


def test_no_prompts_to_sample(refuse):
    assert "sample.prompts must list at least one source" in refuse("sample", "sample.prompts=[]")


def test_a_label_store_without_completions(refuse, tmp_path):
    line = refuse("label", f"label.store={tmp_path / 'other.db'}")
    assert "The label store has nothing to judge and no judgment." in line
    assert "Run 'steerline sample' first" in refuse("reward", f"label.store={tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_a_reward_model_as_base(refuse, run_dir, tmp_path):
    loads = ("pretrain.tokens=0", f"base={run_dir / 'reward/model'}")
    assert "got a reward or value model" in refuse("pretrain", *loads, folder=tmp_path / "new")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "evaluate"])
def test_a_stage_before_its_parent(refuse, stage, tmp_path):
    line = refuse(stage, folder=tmp_path / "empty")
    assert "Run 'steerline " in line


def test_a_run_folder_of_another_configuration(refuse):
    line = refuse("ppo", "ppo.kl_coef=0.5", force=False)
    assert "ppo.kl_coef 0.02 -> 0.5" in line
    assert "--force" in line


def test_changed_data_asks_for_force(refuse):
    line = refuse("sft", "sft.data=[{path: tiny:demonstrations, limit: 25}]", force=False)
    assert "--force" in line


def unfinish(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "status": "running"}))


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_a_truncated_checkpoint(refuse, run_dir, stage):
    unfinish(run_dir / stage)
    newest = sorted((run_dir / stage / "checkpoints").iterdir())[-1]
    weights = next(newest.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    line = refuse(stage, force=False)
    assert f"{newest} is damaged" in line
    assert "Remove" in line


def test_a_damaged_model_of_a_parent(refuse, run_dir):
    weights = run_dir / "sft/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is damaged" in refuse("reward")


def test_a_pickled_base(refuse, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save({}, folder / "pytorch_model.bin")
    loads = ("pretrain.tokens=0", f"base={folder}")
    assert "pickle" in refuse("pretrain", *loads, folder=tmp_path / "new", force=False)
    loads = ("pretrain.tokens=0", f"base={folder / 'pytorch_model.bin'}")
    assert "pickle" in refuse("pretrain", *loads, folder=tmp_path / "new", force=False)


def test_a_gguf_of_another_architecture(refuse, tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    line = refuse("pretrain", "pretrain.tokens=0", f"base={path}", folder=tmp_path / "new")
    assert "'bert'" in line
    assert "llama" in line


def test_a_minibatch_that_does_not_divide(refuse):
    assert "Use 2 or 4" in refuse("ppo", "ppo.minibatch_size=3")


@pytest.mark.parametrize(
    ("stage", "override", "said"),
    [
        ("ppo", "ppo.preset=n_pluss", "Did you mean 'n_plus'?"),
        ("ppo", "ppo.eval_every=1", "ppo.eval_prompts must list prompts with eval_every"),
        (
            "ppo@hydra",
            "ppo@hydra.activation_checkpointing=true",
            "activation_checkpointing must be false with ppo.hydra.value: adapter, got True. "
            "Set ppo.hydra.value: trunk.",
        ),
        (
            "ppo@hydra",
            "ppo@hydra.hydra.lora.target_modules=[q_proj, v_porj]",
            "ppo.hydra.lora.target_modules must name layers of the model, got 'v_porj'. "
            "Use all-linear, or of down_proj",
        ),
        (
            "ppo@trunk",
            "ppo@trunk.hydra.lora.target_modules=[embed_tokens]",
            "ppo.hydra.lora.target_modules must name layers of the model, got 'embed_tokens'",
        ),
        ("ppo@hydra", "ppo@hydra.minibatch_size=3", "minibatch_size must divide"),
    ],
)
def test_an_option_of_ppo_that_cannot_be(refuse, stage, override, said):
    assert said in refuse(stage, override)


@pytest.mark.parametrize("stage", ["ppo@hydra", "ppo@trunk"])
def test_a_reward_adapter_that_is_gone(refuse, run_dir, stage):
    shutil.rmtree(run_dir / "reward@adapters/adapter")
    line = refuse(stage)
    assert f"{run_dir / 'reward@adapters/adapter'} is damaged" in line
    assert "Run 'steerline reward@adapters CONFIG --force' to make it again." in line


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_reward_adapter(refuse, run_dir, name):
    file = run_dir / "reward@adapters/adapter" / name
    text = file.read_bytes()
    file.write_bytes(text[:-20])
    assert f"{name} has {len(text) - 20} bytes, {len(text)} were written" in refuse("ppo@hydra")
    file.write_bytes(text[:-20] + bytes(20))
    assert f"{name} was changed after it was written" in refuse("ppo@hydra")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{stage: rewrd}", "ppo.rewards[0].stage must name a reward stage"),
        ("{model: runs/nowhere/model}", "No model in runs/nowhere/model"),
        ("{model: FOREIGN}", "must have the policy's vocabulary and chat template, got FOREIGN"),
        ("{model: POLICY}", "POLICY must hold a reward model"),
        ("{function: nowhere_at_all:f}", "ModuleNotFoundError"),
        ("{function: statistics:meen}", "Did you mean 'mean'?"),
        ("{function: 'statistics:mean'}", "must give one finite number a completion, got TypeErro"),
    ],
)
def test_a_reward_that_cannot_be_used(refuse, run_dir, foreign_folder, source, said):
    places = {"FOREIGN": str(foreign_folder), "POLICY": str(run_dir / "sft/model")}
    for name, path in places.items():
        source, said = source.replace(name, path), said.replace(name, path)
    assert said in refuse("ppo", f"ppo.rewards=[{source}]")


BAD_REWARDS = """
import torch


def give_a_column(prompts, completions):
    return torch.zeros(len(completions), 1)


def give_too_few(prompts, completions):
    return [0.0] * (len(completions) - 1)


def give_nan(prompts, completions):
    return [0.0] * (len(completions) - 1) + [float("nan")]


def fail(prompts, completions):
    raise LookupError("no such\\nlexicon")
"""


@pytest.fixture
def bad_rewards(tmp_path, monkeypatch):
    (tmp_path / "bad_rewards.py").write_text(BAD_REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("bad_rewards", None)


@pytest.mark.usefixtures("bad_rewards")
@pytest.mark.parametrize(
    ("function", "got"),
    [
        ("give_a_column", r"\[0\.0\]"),
        ("give_too_few", "7 numbers for 8 completions"),
        ("give_nan", "nan"),
        ("fail", r"LookupError \(no such lexicon\)"),
    ],
)
def test_a_reward_function_without_a_finite_score_names_the_sample(refuse, function, got):
    line = refuse("ppo", f"ppo.rewards=[{{function: bad_rewards:{function}}}]")
    said = r"ppo\.rewards\[0\]\.function must give one finite number a completion, got "
    assert re.search(rf"{said}{got} at prompt [0-9a-f]{{16}}, completion '.*'\. ", line)
    assert "the last checkpoint is kept" in line


def test_an_unknown_task_names_the_nearest(refuse):
    assert "hellaswag" in refuse("evaluate", "evaluate.tasks=[hellaswagg]")


QUESTION = {"query": "Who has 3 cats?", "choices": ["Mia", "Tom"], "gold": 0}


def test_a_question_among_its_own_examples(refuse, tmp_path):
    rows = [QUESTION, {**QUESTION, "query": "Who ran?"}, {**QUESTION, "query": "who has 3  cats?"}]
    path = write_rows(tmp_path / "cats.jsonl", *rows)
    line = refuse("evaluate", f"evaluate.tasks=[{path}]")
    assert "no example of the task cats must be the question" in line
    assert "got question 0 " in line


def test_more_shots_than_examples(refuse, tmp_path):
    path = write_rows(tmp_path / "cats.jsonl", QUESTION, {**QUESTION, "query": "Who ran?"})
    assert "must have more than 2 rows" in refuse(
        "evaluate", f"evaluate.tasks=[{path}]", "evaluate.shots=[2]"
    )


def test_a_task_file_without_a_key(refuse, tmp_path):
    path = tmp_path / "cats.yaml"
    path.write_text("task: cats\ndataset_path: json\ntest_split: test\ndoc_to_text: query\n")
    line = refuse("evaluate", f"evaluate.tasks=[{path}]")
    assert f"{path} must have the key 'doc_to_target', got task, dataset_path" in line


CROWS = {"sent_more": "Tom is old.", "sent_less": "Ann is old."}
WINOGENDER = {
    "sentence": "The cook met the guest before he left.",
    **{"gender": "male", "occupation": "cook", "participant": "guest"},
}
TRUE_FIRST = {"choices": ["Cats purr.", "Cats sing."], "labels": [1, 0]}
TRUTHS = {"question": "What do cats do?", "mc1_targets": TRUE_FIRST, "mc2_targets": TRUE_FIRST}


@pytest.mark.parametrize(
    ("good", "changes", "said"),
    [
        (CROWS, {"sent_less": None}, "'sent_less' must be a text, got None"),
        (WINOGENDER, {"gender": ""}, "'gender' must be male, female or neutral, got ''"),
        (QUESTION, {"query": "Who \ud800?"}, "must hold text, got half of a surrogate pair"),
    ],
    ids=["crows_pairs", "winogender", "questions"],
)
def test_a_row_of_a_task_names_file_and_line(refuse, tmp_path, good, changes, said):
    path = write_rows(tmp_path / "rows.jsonl", good, {**good, **changes})
    assert f"{path}:2: {said}" in refuse("evaluate", f"evaluate.tasks=[{path}]")


def test_a_row_without_a_field_names_file_and_line(refuse, tmp_path):
    for name, rows in (
        ("crows_pairs", [CROWS]),
        ("winogender", [WINOGENDER, {**WINOGENDER, "gender": "female"}]),
        ("truthfulqa_mc", [TRUTHS, {**TRUTHS, "mc2_targets": "mixed"}]),
    ):
        write_rows(tmp_path / f"{name}.jsonl", *rows)
    asked = ("evaluate.tasks=[bias]", f"evaluate.data={tmp_path}")
    assert "truthfulqa_mc.jsonl:2: 'mc2_targets' must be 'choices'" in refuse("evaluate", *asked)
    short = {"sentence": "The cook met the guest before she left."}
    path = write_rows(tmp_path / "winogender.jsonl", WINOGENDER, short)
    assert f"{path}:2: must have sentence, gender" in refuse("evaluate", *asked)
    path = write_rows(tmp_path / "crows_pairs.jsonl", CROWS, {"sent_more": "x"})
    assert f"{path}:2: must have sent_more, sent_less; got sent_more" in refuse("evaluate", *asked)


def test_a_question_that_cannot_be_asked_is_named_by_its_number(refuse, tmp_path):
    rows = [{**QUESTION, "query": f"Who has {number} cats?"} for number in range(60)]
    del rows[56]["choices"]
    path = tmp_path / "cats.yaml"
    path.write_text(
        "task: cats\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {write_rows(tmp_path / 'cats.jsonl', *rows)}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: query\ndoc_to_choice: choices\ndoc_to_target: gold\n"
    )
    line = refuse("evaluate", f"evaluate.tasks=[{path}]", "evaluate.limit=null")
    assert "got question 56 without choices (" in line


def test_data_that_the_offline_preset_lacks(refuse, tmp_path):
    assert "evaluate.data must name the folder" in refuse("evaluate", "evaluate.tasks=[offline]")
    line = refuse("evaluate", "evaluate.tasks=[offline]", f"evaluate.data={tmp_path}")
    assert "without arc_easy.jsonl, piqa.jsonl" in line


def test_a_checkpoint_without_its_tokenizer(refuse, run_dir):
    (run_dir / "sft" / "model" / "tokenizer.json").unlink()
    line = refuse("evaluate")
    assert f"{run_dir / 'sft' / 'model'} is damaged: tokenizer.json is missing" in line
