"""``steerline report --models``: any checkpoints are measured and compared, ours or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.models import save_model
from pipeline.runs import checkpoint_path
from stages.cli import main
from tests.run_folders import write_stage

QUESTIONS = [
    {
        "query": f"Question: number {i}, where does Tom live?",
        "choices": ["town", "forest", "boat"],
        "gold": i % 3,
    }
    for i in range(24)
]


@pytest.fixture
def models(make_policy, tiny_tokenizer, tmp_path: Path) -> dict[str, Path]:
    """Return folders of two models: one as a stage leaves it, one with no chat template."""
    stage = tmp_path / "elsewhere" / "sft"
    save_model(stage / "model", make_policy(0, torch.float32, context=512), tiny_tokenizer, "# A\n")
    foreign = tmp_path / "foreign"
    save_model(foreign, make_policy(1, torch.float32, context=512), tiny_tokenizer, "# B\n")
    (foreign / "chat_template.jinja").unlink()
    # Without the tokens of roles it is not given a template either.
    for path in (foreign / "tokenizer.json", foreign / "tokenizer_config.json"):
        path.write_text(path.read_text().replace("<|assistant|>", "<|another|>"))
    return {"base": stage, "other": foreign}


@pytest.fixture
def compare(models: dict[str, Path], tmp_path: Path) -> Callable[..., int]:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"Mia has {i} cats."}) + "\n" for i in range(6)))

    def run(*words: str, folder: str = "out") -> int:
        named = [f"{name}={path}" for name, path in models.items()]
        asked = [f"evaluate.tasks=[{questions}]", "evaluate.shots=[0, 2]", "evaluate.limit=16"]
        asked += [f"evaluate.perplexity=[{texts}]", f"run_dir={tmp_path / folder}"]
        return main(["report", "--models", *named, *asked, *words])

    return run


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_two_checkpoints_are_measured_and_the_first_is_the_base(
    compare, models: dict[str, Path], tmp_path: Path
) -> None:
    assert compare() == 0
    folder = tmp_path / "out"
    results = read(folder, "evaluate/results.json")
    assert list(results) == ["base", "other"]
    assert set(results["other"]["questions"]) == {"0", "2"}
    facts = read(folder, "evaluate/models.json")
    assert facts["base"]["place"] == str(models["base"] / "model")
    assert facts["other"]["hash"] != facts["base"]["hash"]
    numbers = read(folder, "report/report.json")
    rows = {(row["stage"], row["task"], row["shots"]): row for row in numbers["tax"]}
    accuracy = {stage: results[stage]["questions"]["2"]["acc"] for stage in results}
    row = rows["other", "questions", 2]
    assert row["difference"] == pytest.approx(accuracy["other"] - accuracy["base"])
    assert rows["base", "questions", 2]["difference"] is None
    assert [row["stage"] for row in numbers["language"]] == ["base", "other"]
    assert numbers["language"][1]["overconfidence_change"] is not None
    html = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert '<section id="models"' in html
    assert "other against base" in html
    for part in ("stages", "reward", "ppo", "losses"):
        assert f'<section id="{part}"' not in html
    assert set(numbers["headline"]) == {"base", "other"}


def test_what_was_measured_is_kept_and_another_model_needs_force(
    compare, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare() == 0
    folder = tmp_path / "out"
    before = (folder / "evaluate" / "manifest.json").read_bytes()
    assert compare("report.title=Mine") == 0
    assert (folder / "evaluate" / "manifest.json").read_bytes() == before
    assert "<title>Mine</title>" in (folder / "report" / "report.html").read_text()
    capsys.readouterr()
    card = models["other"] / "README.md"
    card.write_text("# Another\n")
    assert compare() == 2
    said = capsys.readouterr().err
    assert "model other has changed" in said
    assert said.count("\n") == 1
    assert compare("--force") == 0


def test_another_base_and_a_model_less_are_noticed(
    compare, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models["third"] = models["other"]
    assert compare() == 0
    results = tmp_path / "out" / "evaluate" / "results.json"
    measured = json.loads(results.read_text())
    del models["third"]
    said = []
    for names in (["base", "other"], ["other", "base"]):
        places = {name: models[name] for name in names}
        models.clear()
        models.update(places)
        capsys.readouterr()
        assert compare() == 2
        said.append(capsys.readouterr().err)
        assert "data list of models has changed" in said[-1]
        assert said[-1].count("\n") == 1
        assert list(json.loads(results.read_text())) == list(measured)
        assert compare("--force") == 0
        found = json.loads(results.read_text())
        assert list(found) == names
        assert found == {name: measured[name] for name in names}
        measured = found
        numbers = read(tmp_path / "out", "report/report.json")
        assert [row["stage"] for row in numbers["language"]] == names


def test_a_model_that_lost_too_much_fails_with_3_and_its_report_is_there(
    compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare() == 0
    folder = tmp_path / "out"
    numbers = read(folder, "report/report.json")
    (mean,) = [row for row in numbers["tax"] if (row["stage"], row["shots"]) == ("other", "all")]
    capsys.readouterr()
    # Of these two random models the second answers worse.
    assert mean["difference"] < 0
    assert compare(f"evaluate.max_tax={-mean['difference'] + 0.01}") == 0
    assert compare("evaluate.max_tax=0") == 3
    said = capsys.readouterr().err
    assert said.startswith("steerline: evaluate.max_tax must hold")
    assert "other changes the few-shot mean by" in said
    assert said.count("\n") == 1
    assert read(folder, "report/report.json")["gate"][0]["passed"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "a=x"], "--models must name two models or more, got 1."),
        (["--models=a=x", "evaluate.tasks=[tiny]"], "--models must name two models or more"),
        (["--models", "a=./nowhere", "b=x"], "evaluate must have tasks, perplexity or prompts"),
        (
            ["--models", "a=./nowhere", "b=x", "evaluate.tasks=[tiny]"],
            "No model in ./nowhere. Check the path.",
        ),
        (
            ["--models", "a=no.gguf", "b=x", "evaluate.tasks=[tiny]"],
            "No file no.gguf. Check the path of the GGUF.",
        ),
        (["absent.yaml", "--models", "a=x", "b=y"], "No configuration absent.yaml."),
    ],
)
def test_a_mistake_is_one_line_and_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"steerline: {message}"), said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_tokenizer_is_one_line(
    compare, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (models["other"] / name).unlink()
    assert compare() == 2
    said = capsys.readouterr().err
    assert "No tokenizer could be loaded from" in said
    assert said.count("\n") == 1


def test_weights_that_are_no_numbers_are_one_line(
    compare,
    models: dict[str, Path],
    make_policy,
    tiny_tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    diverged = make_policy(1, torch.float32, context=512)
    with torch.no_grad():
        next(diverged.parameters())[3, 2] = torch.nan
    shutil.rmtree(models["other"])
    save_model(models["other"], diverged, tiny_tokenizer, "# C\n")
    assert compare() == 2
    said = capsys.readouterr().err
    assert f"{models['other']} must hold finite weights, got NaN or infinity in " in said
    assert said.count("\n") == 1


def test_prompts_need_a_chat_template(
    compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("evaluate.prompts=[{path: tiny:prompts, split: test, limit: 2}]") == 2
    assert "must have a chat template, got none" in capsys.readouterr().err
    assert tmp_path.is_dir()


def test_a_checkpoint_of_a_run_takes_the_tokenizer_of_its_line(
    compare, models: dict[str, Path], tmp_path: Path
) -> None:
    run, whole = tmp_path / "runs" / "tiny", models["base"] / "model"
    write_stage(run, "sft", model=whole)
    write_stage(run, "ppo", ["sft"], status="running")
    models["other"] = checkpoint_path(run / "ppo", 40) / "policy"
    no_tokenizer = shutil.ignore_patterns("*token*", "*.jinja")
    shutil.copytree(whole, models["other"], ignore=no_tokenizer)
    assert compare() == 0
    results = read(tmp_path / "out", "evaluate/results.json")
    assert results["other"]["questions"] == results["base"]["questions"], "the same weights"
