from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.evaluate import EvaluateSection, ReportSection
from pipeline.config.models import Given, find_model, models_config, read_models
from pipeline.errors import ConfigError

TWO = [Given("base", "org/base"), Given("tuned", "org/tuned")]


def test_models_and_overrides_are_told_apart() -> None:
    words = ["base=org/a", "evaluate.tasks=[tiny]", "pythia-1.4b=org/b=c", "seed=3", "run_dir=x"]
    models, overrides = read_models(words)
    assert models == [Given("base", "org/a"), Given("pythia-1.4b", "org/b=c")]
    assert overrides == ["evaluate.tasks=[tiny]", "seed=3", "run_dir=x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=x"], "must name two models or more, got 1"),
        (["a=x", "a=y"], "must have different names, got 'a' twice"),
        (["a=x", "y"], "must be followed by NAME=PATH or NAME=HUB_NAME, got 'y'"),
        (["a=x", "b="], "got 'b='"),
        (["a=x", "../b=y"], "got '../b=y'"),
        (["a=x", ".hidden=y"], "got '.hidden=y'"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_models(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stages_folder_stands_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "sft" / "model").mkdir(parents=True)
    assert find_model(str(tmp_path / "sft")) == str(tmp_path / "sft" / "model")
    assert find_model(str(tmp_path / "sft" / "model")) == str(tmp_path / "sft" / "model")
    assert find_model("org/name") == "org/name"


def test_without_a_yaml_the_folder_has_the_models_names() -> None:
    config = models_config(None, TWO, ["evaluate.tasks=[tiny]", "seed=5"])
    assert config.run_dir == Path("runs/base-vs-tuned")
    assert (config.seed, config.stages["evaluate"].tasks) == (5, ["tiny"])
    assert config.section("report", ReportSection).title == "tuned against base"


def test_a_runs_questions_are_asked_in_a_folder_below_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "run_dir: runs/x\nbase: b\nppo: {prompts: [tiny:prompts]}\nsft: {}\nreward: {}\n"
        "sft@ppo_init: {}\n"
        "evaluate: {tasks: [tiny], prompts: [tiny:prompts], best_of: {n: [1, 2]}, max_tax: 0.1,\n"
        " win_rates: {}, toxicity: {function: 'm:score', prompts: [tiny:prompts]}}\n"
        "report: {title: The run, notes: [The run's own.], samples: 3}\n"
    )
    config = models_config(path, TWO, [])
    section = config.section("evaluate", EvaluateSection)
    assert config.run_dir == Path("runs/x/models/base-vs-tuned")
    assert (section.tasks, section.max_tax) == (["tiny"], 0.1)
    # What compares stages by name is left out, what is measured on a model alone is not.
    assert (section.best_of, section.win_rates) == (None, None)
    assert section.toxicity is not None
    report = config.section("report", ReportSection)
    assert (report.title, report.notes, report.samples) == ("tuned against base", [], 3)
    own = models_config(path, TWO, ["run_dir=there", "report.title=Mine"])
    assert own.run_dir == Path("there")
    assert own.section("report", ReportSection).title == "Mine"


def test_a_wrong_override_is_said_as_everywhere() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.taks is no known key\. Did you mean 'tasks'"):
        models_config(None, TWO, ["evaluate.taks=[tiny]"])
