from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.evaluate import EvaluateSection
from pipeline.config.run import SECTIONS, RunConfig, TopLevel
from pipeline.config.schema import Section, describe_type, field_docs, field_types
from pipeline.errors import DataError
from pipeline.runs import Manifest, open_stage
from stages import entry
from stages.cli import COMMANDS, STAGES, main
from stages.fields import WIDTH, describe_stage, describe_top

YAML = """
base: a-model
sft: {select_by: last}
sft@ppo_init: {epochs: 2}
reward: {}
ppo: {prompts: [prompts.jsonl]}
ppo@no_ptx: {ptx_coef: 0}
evaluate:
"""
WHOLE_LINE = [
    *("pretrain", "evaluate", "sft", "evaluate", "sft@ppo_init", "evaluate", "reward"),
    *("ppo", "evaluate", "ppo@no_ptx", "evaluate", "report"),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\n{YAML}", encoding="utf-8")
    return path


class Stages:
    """Stand in for the stages' modules: each opens its folder, as a real one does, and ends."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.sections: list[Section] = []
        self.act: Callable[[str], object] = str

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def run(self, config: RunConfig, name: str, *, force: bool = False) -> None:
        self.calls.append((name, force))
        self.sections.append(config.stages[name])
        models = [
            parent
            for parent in config.line
            if parent.startswith(("pretrain", "sft", "ppo"))
            and Manifest.read(config.run_dir / parent) is not None
        ]
        parents = models if name == "evaluate" else []
        with open_stage(config, name, parents=parents, grows=bool(parents), force=force) as stage:
            if not stage.skip:
                self.act(name)
                stage.finish({})


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    made = Stages()
    for stage in SECTIONS:
        module = types.ModuleType(f"stages.{stage}")
        module.run = made.run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Return the one line on stderr of a command that must end with 2."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("steerline: ")
    assert err.count("\n") == 1
    return err.removeprefix("steerline: ").rstrip("\n")


def help_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*argv, "--help"])
    assert not caught.value.code
    return capsys.readouterr().out


def dotted_fields(section: type, path: str) -> list[tuple[str, str, str]]:
    """Return (dotted name, type, meaning) of a section's fields and of those nested in it."""
    found = []
    for name, hint in field_types(section).items():
        dotted = f"{path}.{name}" if path else name
        found.append((dotted, describe_type(hint), field_docs(section)[name]))
        for arm in (hint, *typing.get_args(hint)):
            if isinstance(arm, type) and issubclass(arm, Section):
                is_list = typing.get_origin(hint) is list
                element = f"<{arm.__name__.lower()}>" if is_list else dotted
                found += dotted_fields(arm, element)
    return found


@pytest.mark.parametrize("stage", SECTIONS)
def test_help_of_a_stage_lists_every_field_with_type_default_and_meaning(
    stage: str, capsys: pytest.CaptureFixture[str]
):
    text = help_of(capsys, stage)
    words = " ".join(text.split())
    for dotted, kind, meaning in dotted_fields(SECTIONS[stage], stage):
        assert f"  {dotted}  ({kind}; " in text
        assert meaning.replace("``", "'") in words
    assert max(len(line) for line in text.splitlines()) <= WIDTH


def test_help_shows_defaults_as_the_yaml_would_hold_them():
    text = describe_stage("ppo")
    assert "ppo.learning_rate  (number; default: 8e-6)" in text
    assert "ppo.ema_decay  (number or null; default: 0.992)" in text
    assert "ppo.init  (string; default: sft@ppo_init)" in text
    assert "ppo.ptx_length  (integer or null; default: null)" in text
    assert "evaluate.shots  (list of integer; default: [0, 1, 5])" in describe_stage("evaluate")
    reward = describe_stage("reward")
    assert 'default: [{path: "store:", split: validation}])' in reward
    assert "<source>.path  (string; required)" in reward


def test_help_of_a_variant_names_its_keys(capsys: pytest.CaptureFixture[str]):
    assert "ppo@no_ptx.kl_coef  (number; default: 0.02)" in help_of(capsys, "ppo@no_ptx")


def test_top_help_lists_commands_and_top_level_fields(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in (*STAGES, *COMMANDS):
        assert f"\n  {command} " in text
    for field in dataclasses.fields(TopLevel):
        assert f"\n  {field.name}  (" in text
    assert describe_top() in text
    assert set(STAGES) == set(SECTIONS)
    assert max(len(line) for line in text.splitlines()) <= WIDTH


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]):
    assert help_of(capsys, command).startswith(f"usage: steerline {command}")


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("steerline ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Name a command. See 'steerline --help'."),
        (["stauts"], "'stauts' is no command. Did you mean 'status'? See 'steerline --help'."),
        (["pp0"], "'pp0' is no command. Did you mean 'ppo'?"),
        (["ppo"], "the following arguments are required: CONFIG. See 'steerline ppo --help'."),
        (["ppo", "CONFIG", "--forse"], "unrecognized arguments: --forse."),
        (["run", "absent.yaml"], "No configuration absent.yaml."),
        (["ppo@no_ptxx", "CONFIG"], "This run has no stage 'ppo@no_ptxx'. Did you mean 'ppo@no"),
        (["ppo", "CONFIG", "ppo.klcoef=1"], "ppo.klcoef is no known key. Did you mean 'kl_coef'?"),
        (["status", "CONFIG", "seed=x"], "seed must be integer, got 'x'."),
        (["labels", "exprot", "CONFIG"], "argument action: invalid choice: 'exprot'"),
        (["labels", "export", "CONFIG"], "No label store in "),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    argv: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
):
    given = [str(config) if word == "CONFIG" else word for word in argv]
    if argv[:2] == ["labels", "export"]:
        (config.parent / "run").mkdir()
    assert refusal(capsys, *given).startswith(message)


def test_a_stage_before_its_parent_is_one_line_and_exit_code_2(
    config: Path, stages: Stages, capsys: pytest.CaptureFixture[str]
):
    def refuse(name: str) -> None:
        raise DataError(f"{name}: data/a.jsonl:3: not a JSON object.\nMend the line.")

    stages.act = refuse
    message = refusal(capsys, "sft", config)
    assert message == "sft: data/a.jsonl:3: not a JSON object. Mend the line."


def test_a_fault_of_ours_keeps_its_traceback(config: Path, stages: Stages):
    def break_down(name: str) -> None:
        raise ZeroDivisionError(name)

    stages.act = break_down
    with pytest.raises(ZeroDivisionError):
        main(["sft", str(config)])


def test_an_interruption_is_one_line_and_130(
    config: Path, stages: Stages, capsys: pytest.CaptureFixture[str]
):
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt(name)

    stages.act = interrupt
    assert main(["sft", str(config)]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_only_the_first_of_several_processes_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RANK", "1")
    assert main(["stauts"]) == 2
    assert capsys.readouterr().err == ""


def test_a_stage_takes_overrides_and_options_in_any_order(config: Path, stages: Stages):
    assert main(["sft@ppo_init", str(config), "--force", "sft.epochs=3"]) == 0
    assert main(["ppo", "--force", str(config), "ppo.kl_coef=1"]) == 0
    assert main(["reward", str(config)]) == 0
    assert stages.calls == [("sft@ppo_init", True), ("ppo", True), ("reward", False)]


def test_run_goes_down_the_line_and_evaluates_after_every_model(config: Path, stages: Stages):
    assert main(["run", str(config)]) == 0
    assert stages.names == WHOLE_LINE


def test_run_compares_with_best_of_n_once_all_is_there(config: Path, stages: Stages):
    asked = ["evaluate.prompts=[tiny:prompts]", "evaluate.best_of={n: [1, 2]}"]
    assert main(["run", str(config), *asked]) == 0
    at = WHOLE_LINE.index("reward") + 1
    assert stages.names == [*WHOLE_LINE[:at], "evaluate", *WHOLE_LINE[at:]]
    sections = [each for each in stages.sections if isinstance(each, EvaluateSection)]
    assert [each.best_of is not None for each in sections] == [False] * 5 + [True]


def test_run_without_an_evaluate_section_evaluates_nothing(config: Path, stages: Stages):
    config.write_text(config.read_text().replace("evaluate:", ""))
    assert main(["run", str(config)]) == 0
    assert stages.names == [name for name in WHOLE_LINE if name != "evaluate"]


@pytest.mark.usefixtures("stages")
def test_run_again_skips_what_is_complete_and_says_so(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", str(config)]) == 0
    first = capsys.readouterr().out
    assert "[ 3/12] sft: complete in " in first
    assert "skipped" not in first
    assert main(["run", str(config)]) == 0
    second = capsys.readouterr().out
    assert second.count("complete and unchanged, skipped") == len(WHOLE_LINE)


def test_run_goes_on_after_the_stage_that_stopped_it(config: Path, stages: Stages):
    def stop(name: str) -> None:
        if name == "reward":
            raise DataError("no data")

    stages.act = stop
    assert main(["run", str(config)]) == 2
    assert stages.names == WHOLE_LINE[:7]
    made: list[str] = []
    stages.act = made.append
    assert main(["run", str(config)]) == 0
    assert made == WHOLE_LINE[6:]


def test_run_with_force_makes_all_again_and_evaluates_all_at_the_end(config: Path, stages: Stages):
    assert main(["run", str(config)]) == 0
    stages.calls.clear()
    made: list[str] = []
    stages.act = made.append
    assert main(["run", str(config), "--force"]) == 0
    once = [name for name in WHOLE_LINE[:-1] if name != "evaluate"] + ["evaluate", "report"]
    assert made == once
    assert stages.calls == [(name, True) for name in once]


def test_a_stage_module_is_the_same_command(config: Path, stages: Stages):
    argv = [str(config), "ppo.kl_coef=1", "--variant"]
    assert entry.run_stage_module("ppo", stages.run, [*argv, "no_ptx"]) == 0
    assert entry.run_stage_module("ppo", stages.run, [*argv, "ppo@no_ptx", "--force"]) == 0
    assert entry.run_stage_module("ppo", stages.run, argv[:1]) == 0
    assert stages.calls == [("ppo@no_ptx", False), ("ppo@no_ptx", True), ("ppo", False)]


def test_a_stage_module_refuses_an_unknown_variant(
    config: Path, stages: Stages, capsys: pytest.CaptureFixture[str]
):
    assert entry.run_stage_module("ppo", stages.run, [str(config), "--variant", "no_ptz"]) == 2
    assert "Did you mean 'ppo@no_ptx'?" in capsys.readouterr().err
    assert stages.calls == []


def test_telemetry_is_off_unless_the_user_sets_it(monkeypatch: pytest.MonkeyPatch):
    for name in entry.NO_TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    main(["--version"])
    assert {name: os.environ[name] for name in entry.NO_TELEMETRY} == entry.NO_TELEMETRY
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    main(["--version"])
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0"


def test_telemetry_is_off_also_where_the_hub_was_imported_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    hub = types.ModuleType("huggingface_hub.constants")
    hub.HF_HUB_DISABLE_TELEMETRY = False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, hub.__name__, hub)
    main(["--version"])
    assert hub.HF_HUB_DISABLE_TELEMETRY is True


@pytest.mark.parametrize("asked", [None, "info"])
def test_the_hubs_retries_are_not_told_unless_the_user_asks(
    asked: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)
    if asked:
        monkeypatch.setenv("HF_HUB_VERBOSITY", asked)
    told: list[str] = []
    hub = types.ModuleType("huggingface_hub.utils.logging")
    hub.set_verbosity_error = lambda: told.append("error")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, hub.__name__, hub)
    main(["--version"])
    assert told == ([] if asked else ["error"])
    assert os.environ["HF_HUB_VERBOSITY"] == (asked or "error")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bars_are_off_where_stdout_is_no_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
):
    for name in entry.NO_BARS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    main(["--version"])
    assert ("TQDM_DISABLE" in os.environ) is not terminal


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["ppo", "--help"],
        ["run", "--help"],
        ["labels", "--help"],
        ["status", "CONFIG"],
        ["labels", "agreement", "CONFIG"],
        ["user", "--help"],
        ["user", "list", "CONFIG"],
        ["serve", "--help"],
        ["serve", "CONFIG"],
        ["ppo@misspelt", "CONFIG"],
    ],
)
def test_dispatch_loads_no_torch(argv: list[str], config: Path):
    code = (
        "import sys\nfrom stages.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'trl'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    given = [str(config) if word == "CONFIG" else word for word in argv]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_process_ends_with_the_exit_code(config: Path):
    code = "import sys; from stages.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(config), "seed=x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "steerline: seed must be integer, got 'x'. Change the value.\n"


def test_a_module_run_as_a_script_is_the_stage(config: Path):
    done = subprocess.run(
        [sys.executable, "-m", "stages.label", str(config), "label.overlap=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("steerline: label.overlap must be 1 or more, got 0.")


def test_a_warning_of_ours_is_said_as_errors_are(monkeypatch, capsys):
    def warn() -> None:
        logging.getLogger("pipeline.ppo_loop").warning("ppo, iteration 3: %s", "two\nlines")

    for _ in range(2):
        assert entry.run_command(warn) == 0
    assert capsys.readouterr().err == "steerline: ppo, iteration 3: two lines\n" * 2
    monkeypatch.setenv("RANK", "1")
    assert entry.run_command(warn) == 0
    assert capsys.readouterr().err == ""
