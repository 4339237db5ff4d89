from __future__ import annotations

import contextlib
import io
import json

import pytest

from pipeline.config.run import load_config
from pipeline.errors import ConfigError, ModelError, RunError
from pipeline.formatting import Formatter
from pipeline.models import load_policy, new_reward_model, save_model
from pipeline.records import Prompt
from pipeline.runs import open_stage
from pipeline.sampling import sample_completions
from pipeline.serving import ModelServer
from pipeline.serving_messages import ServingSettings
from pipeline.tokenizer import load_tokenizer
from stages import cli, compare
from stages.compare import find_subjects, main

YAML = """
seed: 3
base: a-model
sft: {}
reward: {}
ppo: {init: sft, prompts: [prompts.jsonl]}
ppo@no_ptx: {ptx_coef: 0}
evaluate: {decoding: {max_new_tokens: 6}}
"""
PROMPT = "Where does Tom live?"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def config(make_policy, tiny_tokenizer, tiny_formatter, tmp_path_factory):
    """Return the YAML of a run whose ``ppo@no_ptx`` is still to do."""
    import torch

    folder = tmp_path_factory.mktemp("compared")
    path = folder / "run.yaml"
    path.write_text(f"run_dir: {folder / 'run'}\n{YAML}", encoding="utf-8")
    made = load_config(path)
    for seed, (name, parents) in enumerate(
        {"pretrain": [], "sft": ["pretrain"], "reward": ["sft"], "ppo": ["sft", "reward"]}.items()
    ):
        with open_stage(made, name, parents=parents) as stage:
            model = make_policy(seed, torch.float32)
            if name == "reward":
                model = new_reward_model(made.run_dir / "sft" / "model", tiny_formatter, seed)
            stage.save_model(
                lambda to, model=model: save_model(to, model, tiny_tokenizer, "# For tests\n")
            )
            stage.finish({})
    return path


@pytest.fixture(scope="module")
def server():
    with ModelServer(ServingSettings(device="cpu")) as made:
        yield made


@pytest.fixture
def shared(server, monkeypatch):
    """Let the command ask a process that runs already: each start takes seconds."""
    monkeypatch.setattr(compare, "ModelServer", lambda _: contextlib.nullcontext(server))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("shared")
def test_json_has_each_answer_with_its_figures(config, capsys):
    main([str(config), "--stages", "sft,ppo", "--prompt", PROMPT, "--samples", "2", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["sample"]) for row in rows] == [
        *(("sft", 0), ("sft", 1), ("ppo", 0), ("ppo", 1)),
    ]
    run = load_config(config)
    for name in ("sft", "ppo"):
        folder = run.run_dir / name / "model"
        expected = sample_completions(
            load_policy(folder).eval(),
            Formatter(load_tokenizer(folder)),
            [Prompt.from_text(PROMPT)] * 2,
            run.stages["evaluate"].decoding,
            seed=3,
            sample_index=range(2),
        )
        own = [row for row in rows if row["model"] == name]
        assert [row["text"] for row in own] == [one.text for one in expected]
        assert {row["path"] for row in own} == {str(folder)}
        assert all(row["score"] is not None and row["kl"] > 0 for row in own)


@pytest.mark.usefixtures("shared")
def test_all_that_is_finished_is_compared_and_the_base_is_no_way_from_itself(config, capsys):
    rest = ["--temperature", "0", "--reward", "none", "--json"]
    main([str(config), "--prompt", PROMPT, *rest])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["model"] for row in rows] == ["pretrain", "sft", "ppo"]
    assert [row["kl"] is None for row in rows] == [True, False, False]
    assert {row["score"] for row in rows} == {None}


def test_a_pipe_gets_plain_text_and_other_models_have_their_names(config, tmp_path, capsys):
    folder = load_config(config).run_dir / "ppo" / "model"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "cat"}\n{"prompt": "dog"}\n', encoding="utf-8")
    models = ["--models", f"mine={folder}", "--reference", str(folder)]
    rest = ["--prompts", str(prompts), "--max-new-tokens", "3"]
    assert cli.main(["compare", str(config), *models, *rest]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("prompt: ")] == ["prompt: cat", "prompt: dog"]
    headings = [line for line in lines if line.startswith("--- ")]
    assert len(headings) == 2
    assert all(line.startswith("--- mine: score ") and "KL" not in line for line in headings)


@pytest.mark.usefixtures("shared")
def test_a_terminal_gets_a_table(config, monkeypatch):
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm-256color")
    main([str(config), "--stages", "sft", "--stages", "ppo", "--prompt", PROMPT])
    final = out.getvalue().rpartition(PROMPT)[2]
    assert "sft" in final
    assert "ppo" in final
    assert final.count("score") == 2
    assert "not in the first column" in final


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "sfd"], r"^--stages must name a pretrain or sft or ppo stage of this run, "
                              r"got 'sfd'\. Did you mean 'sft'\?$"),
        (["--stages", "reward"], "^--stages must name a pretrain or sft or ppo stage"),
        (["--stages", "sft,sft"], "^--stages and --models must name each model once, got 'sft'"),
        (["--models", "folder"], r"^--models must have the form NAME=PLACE, got 'folder'\."),
        (["--samples", "0"], r"^samples must be 1 or more, got 0\."),
        (["--temperature", "-1"], r"^temperature must be 0 or more, got -1\.0\."),
        (["--threads", "0"], r"^threads must be positive, got 0\."),
        (["--memory", "-1"], "^memory_bytes must be positive"),
        (["--reward", "sft"], "^--reward must name a reward stage of this run, got 'sft'"),
        (["--reference", "pretrian"], r"^--reference must name .* Did you mean 'pretrain'\?$"),
        (["--top-p", "x"], "^argument --top-p: invalid float value: 'x'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line(config, arguments, message):
    with pytest.raises(ConfigError, match=message):
        main([str(config), "--prompt", PROMPT, *arguments])


def test_a_prompt_must_be_given(config):
    with pytest.raises(ConfigError, match="--prompt or --prompts must be given"):
        main([str(config)])


def test_a_stage_that_is_not_finished_is_one_line(config):
    with pytest.raises(RunError, match=r"ppo@no_ptx.*Run 'steerline ppo@no_ptx CONFIG' first\.$"):
        main([str(config), "--stages", "ppo@no_ptx", "--prompt", PROMPT])


def test_a_run_without_a_model_is_one_line(config, tmp_path):
    with pytest.raises(RunError, match=r"^No model in .* to compare\."):
        find_subjects(load_config(config, [f"run_dir={tmp_path}"]), [], [])


@pytest.mark.usefixtures("shared")
def test_a_model_that_is_not_there_is_one_line_that_names_it(config, tmp_path):
    with pytest.raises(ModelError, match=r"^mine: No model in .*/nowhere\. Check the path\.$"):
        main([str(config), "--prompt", PROMPT, "--models", f"mine={tmp_path / 'nowhere'}"])
