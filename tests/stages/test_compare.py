from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from argparse import Namespace

import pytest
import torch

from pipeline.config.run import load_config
from pipeline.errors import ConfigError, DataError, ModelError, RunError
from pipeline.formatting import Formatter
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.regression_set import RegressionSet
from pipeline.runs import checkpoint_path
from pipeline.sampling import sample_completions
from pipeline.tokenizer import load_tokenizer
from stages import cli, compare
from stages.compare import main

PROMPT = "Where does Tom live?"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def config(compared):
    return compared


@pytest.fixture
def shared(server, monkeypatch):
    """Let the command ask a process that runs already: each start takes seconds."""
    monkeypatch.setattr(compare, "ModelServer", lambda _: contextlib.nullcontext(server))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def rows_of(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.usefixtures("shared")
def test_json_has_each_answer_with_its_figures(config, capsys):
    main([str(config), "--stages", "sft,ppo", "--prompt", PROMPT, "--samples", "2", "--json"])
    rows = rows_of(capsys.readouterr().out)
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
    rows = rows_of(capsys.readouterr().out)
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
        (["--next", "0"], r"^--next must be 1 or more, got 0\."),
        (["--next", "3", "--at", "0"], r"^--at must be 1 or more, got 0\."),
        (["--at", "2"], "^--at must stand beside --next"),
        (["--samples", "0"], r"^samples must be 1 or more, got 0\."),
        (["--temperature", "-1"], r"^temperature must be 0 or more, got -1\.0\."),
        (["--threads", "0"], r"^threads must be positive, got 0\."),
        (["--memory", "-1"], r"^--memory must be positive, got -1\.0\."),
        (["--memory", "nan"], "^--memory must be positive, got nan"),
        (["--memory", "inf"], "^--memory must be positive, got inf"),
        (["--temperature", "nan"], "^temperature must be 0 or more, got nan"),
        (["--reward", "sft"], "^--reward must name a reward stage of this run, got 'sft'"),
        (["--top-p", "x"], "^argument --top-p: invalid float value: 'x'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line(config, arguments, message):
    with pytest.raises(ConfigError, match=message):
        main([str(config), "--prompt", PROMPT, *arguments])


def test_a_prompt_must_be_given(config):
    with pytest.raises(ConfigError, match="--prompt or --prompts must be given"):
        main([str(config)])


@pytest.fixture
def absent(tmp_path):
    return ["--models", f"mine={tmp_path / 'nowhere'}"]


@pytest.mark.usefixtures("shared")
def test_a_model_that_is_not_there_is_one_line_that_names_it(config, absent):
    with pytest.raises(ModelError, match=r"^mine: No model in .*/nowhere\. Check the path\.$"):
        main([str(config), "--prompt", PROMPT, *absent])


@pytest.mark.usefixtures("shared")
def test_a_model_that_fails_fails_alone_and_the_others_answer_every_prompt(config, absent, capsys):
    asked = ["--prompt", PROMPT, "--prompt", "cat", "--stages", "sft", "--next", "2", "--json"]
    assert cli.main(["compare", str(config), *asked, *absent]) == 2
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert [(row["model"], row["prompt"][0]["content"]) for row in rows] == [
        *(("sft", PROMPT), ("mine", PROMPT), ("sft", "cat"), ("mine", "cat")),
    ]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}, "all rows have the same keys"
    for whole, failed in zip(rows[::2], rows[1::2], strict=True):
        assert whole["error"] is None
        assert whole["text"] is not None
        assert len(whole["next"]["tokens"]) == 2
        assert failed["error"].startswith("No model in ")
        assert failed["path"].endswith("/nowhere")
        assert {failed[key] for key in ("sample", "text", "score", "next")} == {None}
    (line,) = err.splitlines()
    assert line.startswith("steerline: mine failed on 2 of 2 prompts, first: No model in ")


@pytest.mark.usefixtures("shared")
def test_a_failure_stands_among_the_answers_of_a_pipe_and_of_a_terminal(
    config, absent, capsys, monkeypatch
):
    given = [str(config), "--stages", "sft", *absent, "--prompt", PROMPT]
    with pytest.raises(ModelError):
        main(given)
    lines = capsys.readouterr().out.splitlines()
    headings = [line.partition(":")[0] for line in lines if line.startswith("--- ")]
    assert headings == ["--- sft", "--- mine failed"]
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(ModelError):
        main(given)
    final = out.getvalue().rpartition(PROMPT)[2]
    assert final.count("score") == 1
    assert final.count("failed") == 1
    assert "mine: No model in" in final


@pytest.mark.usefixtures("shared")
def test_the_likeliest_tokens_are_told_at_a_place_of_each_answer(config, capsys):
    given = [str(config), "--stages", "pretrain,sft", "--prompt", PROMPT, "--temperature", "0"]
    main([*given, "--next", "3", "--at", "2", "--json"])
    rows = rows_of(capsys.readouterr().out)
    run = load_config(config)
    decoding = dataclasses.replace(run.stages["evaluate"].decoding, temperature=0.0)
    for name, row in zip(("pretrain", "sft"), rows, strict=True):
        folder = run.run_dir / name / "model"
        policy, formatter = load_policy(folder).eval(), Formatter(load_tokenizer(folder))
        prompt = Prompt.from_text(PROMPT)
        (said,) = sample_completions(policy, formatter, [prompt], decoding, seed=3)
        with torch.no_grad():
            read = [*formatter.prompt_ids(prompt.messages), said.ids[0]]
            (logits,) = policy(torch.tensor([read])).logits[:, -1]
        likely = logits.softmax(-1).topk(3)
        found = row["next"]
        assert [token["id"] for token in found["tokens"]] == likely.indices.tolist()
        told = [token["probability"] for token in found["tokens"]]
        assert told == pytest.approx(likely.values.tolist(), rel=1e-4)
        assert found["chosen"] == found["tokens"][0], "greedy takes the likeliest"
        assert found["chosen"]["id"] == said.ids[1]
        references = [token["ref_probability"] is None for token in found["tokens"]]
        assert references == [name == "pretrain"] * 3


@pytest.mark.usefixtures("shared")
def test_an_answer_that_ends_before_has_no_next_tokens(config, capsys):
    main([str(config), "--stages", "sft", "--prompt", PROMPT, "--next", "1", "--at", "7", "--json"])
    (row,) = rows_of(capsys.readouterr().out)
    assert row["tokens"] <= 6
    assert (row["next"], row["error"]) == (None, None)


@pytest.mark.usefixtures("shared")
def test_next_tokens_stand_below_the_answers_of_a_pipe_and_of_a_terminal(
    config, capsys, monkeypatch
):
    given = [str(config), "--stages", "sft,ppo", "--prompt", PROMPT, "--next", "4"]
    main([*given, "--samples", "2"])
    lines = capsys.readouterr().out.splitlines()
    headings = [line.partition(":")[0] for line in lines if ": entropy " in line]
    assert headings == [
        *("--- sft, answer 1, token 1", "--- sft, answer 2, token 1"),
        *("--- ppo, answer 1, token 1", "--- ppo, answer 2, token 1"),
    ]
    assert sum(line.startswith("4. ") for line in lines) == 4
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm-256color")
    main([*given, "--temperature", "0"])
    final = out.getvalue().rpartition(PROMPT)[2]
    assert final.count("entropy") == 2
    (line,) = [line for line in final.splitlines() if "4. " in line]
    assert line.count("4. ") == 2, "side by side"


@pytest.fixture
def saved(config):
    """Return the run's regression set, forgotten afterwards."""
    made = RegressionSet.of_run(load_config(config).run_dir)
    yield made
    made.path.unlink(missing_ok=True)


@pytest.mark.usefixtures("shared")
def test_prompts_are_saved_where_the_lab_has_them_and_asked_from_there(
    config, saved, tmp_path, capsys
):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    given = [str(config), "--stages", "sft", "--json"]
    main([*given, "--prompt", "cat", "--prompts", str(prompts), "--save"])
    first = capsys.readouterr()
    assert first.err == f"saved in {saved.path}: 2 new, 0 there before\n"
    assert [list(prompt.messages) for prompt in saved.prompts()] == [
        [{"role": "user", "content": "cat"}],
        turns,
    ]
    main([*given, "--prompts", str(saved.path)])
    assert capsys.readouterr().out == first.out
    main([*given, "--prompt", "cat", "--save"])
    assert capsys.readouterr().err.endswith(": 0 new, 1 there before\n")


def test_without_a_run_there_is_nowhere_to_save(config, tmp_path):
    given = [str(config), f"run_dir={tmp_path / 'gone'}", "--models", f"mine={tmp_path}"]
    with pytest.raises(RunError, match=r"^--save must have a run to save in, got none at .*/gone"):
        main([*given, "--prompt", PROMPT, "--save"])


@pytest.mark.usefixtures("shared")
def test_a_wrong_argument_saves_nothing(config, saved):
    with pytest.raises(ConfigError):
        main([str(config), "--prompt", PROMPT, "--save", "--temperature", "-1"])
    assert not saved.path.exists()


@pytest.fixture(scope="module")
def checkpoint(config, make_policy):
    """Return a policy as PPO leaves it after iteration 40: a model and no tokenizer."""
    folder = checkpoint_path(load_config(config).run_dir / "ppo", 40) / "policy"
    make_policy(9, torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("shared")
def test_checkpoints_are_compared_by_name_and_by_place(config, checkpoint, capsys):
    models = ["--stages", "sft,ppo.40", "--models", f"mine={checkpoint}"]
    main([str(config), *models, "--prompt", PROMPT, "--reference", "ppo.40", "--json"])
    sft, named, placed = rows_of(capsys.readouterr().out)
    assert (sft["model"], named["model"], placed["model"]) == ("sft", "ppo.40", "mine")
    run = load_config(config)
    (expected,) = sample_completions(
        load_policy(checkpoint).eval(),
        Formatter(load_tokenizer(run.run_dir / "sft" / "model")),
        [Prompt.from_text(PROMPT)],
        run.stages["evaluate"].decoding,
        seed=3,
    )
    assert named["text"] == placed["text"] == expected.text
    assert named["path"] == placed["path"] == str(checkpoint)
    assert sft["kl"] > 0, "the reference is the checkpoint"
    assert (named["kl"], placed["kl"]) == (None, None)


@pytest.mark.parametrize("text", ["", " ", "caf\udce9"])
def test_a_prompt_that_no_tokenizer_takes_is_one_line(config, text):
    with pytest.raises(DataError, match=r"^Turn 1 of the prompt .*\. Write another text\.$"):
        main([str(config), "--prompt", text])


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("4,2", 4), ("", None), ("x", None)])
def test_threads_are_those_of_the_environment_or_all(given, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    settings = compare._settings(Namespace(threads=None, memory=None))
    assert settings.threads == (threads or len(os.sched_getaffinity(0)))
