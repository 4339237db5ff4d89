from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.run import MAKE_A_MODEL, RunConfig, resolve
from pipeline.errors import ConfigError, RunError
from pipeline.runs import checkpoint_path, open_stage
from stages.subjects import Subject, find_beside, find_subjects


def fake_model(to: Path) -> None:
    """Write what looks like a policy to whoever only looks at the names of files."""
    to.mkdir(parents=True, exist_ok=True)
    (to / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (to / "model.safetensors").write_bytes(b"")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Return a run whose ``ppo@no_ptx`` is still to do, with a checkpoint of ``ppo``."""
    made = resolve(
        {
            **{"run_dir": str(tmp_path / "run"), "base": "a-model", "sft": {}, "reward": {}},
            **{"ppo": {"init": "sft", "prompts": ["p.jsonl"]}, "ppo@no_ptx": {"ptx_coef": 0}},
        }
    )
    line = {"pretrain": [], "sft": ["pretrain"], "reward": ["sft"], "ppo": ["sft", "reward"]}
    for name, parents in line.items():
        with open_stage(made, name, parents=parents) as stage:
            stage.save_model(fake_model)
            stage.finish({})
    (made.run_dir / "sft" / "model" / "tokenizer_config.json").write_text("{}")
    fake_model(checkpoint_path(made.run_dir / "ppo", 40) / "policy")
    return made


def test_all_that_is_finished_is_compared_unless_others_are_named(config: RunConfig):
    run = config.run_dir
    all_ = [(name, run / name / "model") for name in ("pretrain", "sft", "ppo")]
    assert find_subjects(config, [], []) == all_
    assert find_subjects(config, ["ppo, sft"], []) == [all_[2], all_[1]]
    assert find_subjects(config, ["sft", "ppo"], []) == all_[1:]
    assert find_subjects(config, [], ["mine=a=b"]) == [("mine", "a=b")]
    assert find_subjects(config, ["sft"], ["mine=x"]) == [all_[1], ("mine", "x")]


def test_a_checkpoint_has_its_name_and_the_tokenizer_of_its_line(config: RunConfig):
    ((name, place),) = find_subjects(config, ["ppo.40"], [])
    assert (name, place) == ("ppo.40", checkpoint_path(config.run_dir / "ppo", 40) / "policy")
    sft = config.run_dir / "sft" / "model"
    assert Subject(name, place).tokenizer == sft
    assert Subject("sft", sft).tokenizer is None


@pytest.mark.parametrize(
    ("stages", "models", "kind", "message"),
    [
        (["sfd"], [], ConfigError, r"^--stages must name a pretrain or sft or ppo stage of this "
                                   r"run, got 'sfd'\. Did you mean 'sft'\?$"),
        (["reward"], [], ConfigError, "^--stages must name a pretrain or sft or ppo stage"),
        (["sft,sft"], [], ConfigError, "^--stages and --models must name each .* got 'sft' twice"),
        (["sft"], ["sft=x"], ConfigError, "^--stages and --models must name each .* got 'sft'"),
        ([], ["folder"], ConfigError, r"^--models must have the form NAME=PLACE, got 'folder'\."),
        ([], ["=x"], ConfigError, r"^--models must have the form NAME=PLACE, got '=x'\."),
        (["ppo@no_ptx"], [], RunError, r"Run 'steerline ppo@no_ptx CONFIG' first\.$"),
        (["ppo.41"], [], RunError, r"^There is no checkpoint 'ppo\.41' in .* Did you mean "
                                   r"'ppo\.40'\?$"),
        (["sft.40"], [], RunError, r"^There is no checkpoint 'sft\.40' in .*sft has none that can"),
        (["pqo.40"], [], ConfigError, "^--stages must name a pretrain or sft or ppo stage"),
        (["reward.40"], [], ConfigError, "^--stages must name a pretrain or sft or ppo stage"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(config: RunConfig, stages, models, kind, message):
    with pytest.raises(kind, match=message):
        find_subjects(config, stages, models)


def test_a_run_without_a_model_is_one_line(tmp_path: Path):
    with pytest.raises(RunError, match=r"^No model in .* to compare\."):
        find_subjects(resolve({"run_dir": str(tmp_path), "base": "a-model"}), [], [])


def test_what_measures_is_a_finished_stage_a_place_or_none(config: RunConfig, tmp_path: Path):
    def reference(asked: str | None, default: str | None = "pretrain"):
        return find_beside(config, "--reference", asked, default, MAKE_A_MODEL)

    run = config.run_dir
    assert reference(None) == run / "pretrain" / "model"
    assert reference(None, "ppo@no_ptx") is None, "it is not finished"
    assert reference("none") is None
    assert reference("sft") == run / "sft" / "model"
    assert reference("ppo.40") == checkpoint_path(run / "ppo", 40) / "policy"
    assert reference(str(tmp_path)) == str(tmp_path)
    assert reference("someone/model") == "someone/model"
    first = find_beside(config, "--reward", None, None, ("reward",))
    assert first == run / "reward" / "model"
    with pytest.raises(ConfigError, match=r"^--reference must .* Did you mean 'pretrain'\?$"):
        reference("pretrian")
    with pytest.raises(ConfigError, match=r"^--reward must name a reward stage .*, got 'sft'"):
        find_beside(config, "--reward", "sft", None, ("reward",))
