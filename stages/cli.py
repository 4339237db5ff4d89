"""Be the command line: ``steerline COMMAND CONFIG [key=value ...]``.

The one root: it finds a stage's module, or another command's, by name when that command runs, so
that ``--help``, ``status``, ``labels``, ``user`` and ``serve`` load no torch.

``steerline run`` runs all stages in this one process, with a collection of garbage between them. A
process of its own for each would give memory back more surely; it would also import torch,
transformers and the rest thirteen times, some 6 s each, of a demonstration that takes minutes.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.config.models import models_config, read_models
from pipeline.config.run import MAKE_A_MODEL, SECTIONS, RunConfig, load_config, references, stage_of
from pipeline.config.schema import Section
from pipeline.errors import ConfigError, nearest
from pipeline.runs import Manifest
from stages.entry import (
    CONFIG_HELP,
    FORCE_HELP,
    OVERRIDE_HELP,
    Parser,
    StageFunction,
    add_run_arguments,
    run_command,
    stage_parser,
)
from stages.fields import describe_top, wrap

MODELS_HELP = (
    "compare these models, the first being the base: stages' folders, .gguf files, hub names; "
    "configuration may follow, and CONFIG may be left out"
)
STAGES = {
    "pretrain": "train the base from scratch, continue it, or load it",
    "sft": "tune it on demonstrations",
    "sample": "draw completions for labelers to compare",
    "label": "fill the label store: simulated labelers, imported judgments",
    "reward": "train the reward model on rankings",
    "ppo": "optimise the policy against the reward model",
    "evaluate": "measure every finished model: tasks, perplexity, instruction following",
    "report": "write report.html",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _dispatch(given))


def _dispatch(argv: list[str]) -> None:
    command, *rest = argv or [""]
    if command in ("-h", "--help"):
        print(_top_help(), end="")
    elif command == "--version":
        print(f"steerline {importlib.metadata.version('steerline')}")
    elif command in COMMANDS:
        COMMANDS[command][1](rest)
    elif stage_of(command) in SECTIONS:
        _stage_command(command, rest)
    else:
        what = f"'{command}' is no command." if command else "Name a command."
        advice = nearest(command, [*COMMANDS, *SECTIONS]) if command else ""
        raise ConfigError(f"{what}{advice} See 'steerline --help'.")


def _top_help() -> str:
    width = max(len(name) for name in (*STAGES, *COMMANDS)) + 2
    lines = [
        "usage: steerline COMMAND CONFIG [key=value ...] [--force]",
        "",
        "InstructGPT's whole line, and the alignment tax after every stage.",
        "",
        "stages, in order; a variant is named as in the YAML, e.g. ppo@no_ptx",
        *(f"  {name:{width}}{meaning}" for name, meaning in STAGES.items()),
        "",
        "other commands",
        *(f"  {name:{width}}{meaning}" for name, (meaning, _) in COMMANDS.items()),
        "",
        wrap("'steerline COMMAND --help' tells what a command takes; for a stage, every key of its "
             "section with type, default, meaning and source.", 0),
        "",
        wrap("Exit codes: 0 done; 2 the input is wrong (one line on stderr); 3 a model lost more "
             "than evaluate.max_tax (one line too); 1 a fault of Steerline's (a traceback); 130 "
             "interrupted.", 0),
        "",
        describe_top(),
    ]  # fmt: skip
    return "\n".join(lines)


def _stage_command(name: str, argv: list[str]) -> None:
    parser = stage_parser(name, f"steerline {name}")
    if stage_of(name) == "report":
        parser.add_argument("--models", nargs="+", metavar="NAME=PLACE", help=MODELS_HELP)
        if any(word.partition("=")[0] == "--models" for word in argv):
            _report_models(argv)
            return
    given = parser.parse_intermixed_args(argv)
    config = load_config(given.config, given.overrides)
    # Before the stage's imports, which take seconds: a variant may be misspelt.
    config.section(name, Section)
    _stage_function(name)(config, name, force=given.force)


def _report_models(argv: list[str]) -> None:
    parser = Parser("steerline report", "Compare any models; CONFIG may be left out.")
    parser.add_argument("given", metavar="CONFIG key=value", nargs="*", default=[])
    parser.add_argument("--models", nargs="+", metavar="NAME=PLACE", help=MODELS_HELP)
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)
    given = parser.parse_intermixed_args(argv)
    models, overrides = read_models(given.models)
    path = next(
        (Path(word) for word in given.given if "=" not in word or Path(word).is_file()), None
    )
    before = [word for word in given.given if path is None or Path(word) != path]
    config = models_config(path, models, [*before, *overrides])
    comparison = importlib.import_module("stages.comparison")
    comparison.measure(config, models, force=given.force)
    _stage_function("report")(config, "report", force=given.force)
    comparison.hold_to_tax(config)


def _stage_function(name: str) -> StageFunction:
    function: StageFunction = importlib.import_module(f"stages.{stage_of(name)}").run
    return function


def _run_command(argv: list[str]) -> None:
    parser = Parser(
        "steerline run", COMMANDS["run"][0], lambda: "'steerline STAGE --help' lists its keys.\n"
    )
    add_run_arguments(parser)
    given = parser.parse_intermixed_args(argv)
    run_line(load_config(given.config, given.overrides), force=given.force)


def run_line(config: RunConfig, *, force: bool) -> None:
    """Run every stage of a configuration, and tell of each when it starts and when it ends.

    Args:
        config: the run's configuration.
        force: run also what is complete, or was made from other inputs.

    Raises:
        SteerlineError: whatever stops a stage; what was complete before stays so.
    """
    started = time.monotonic()
    steps = list(_steps(config, force=force))
    for number, name in enumerate(steps, start=1):
        tag = f"[{number:{len(str(len(steps)))}}/{len(steps)}] {name}"
        print(tag, flush=True)
        before, since = Manifest.read(config.run_dir / name), time.monotonic()
        # A part that compares what the line makes has to wait for all of it.
        waits = config.stages[name].ADDITIONS if name in steps[number:] else ()
        function = _stage_function(name)
        # What is alive before a stage are libraries: the collection after it need not look there.
        gc.freeze()
        function(config.with_stage(name, **dict.fromkeys(waits)), name, force=force)
        after = Manifest.read(config.run_dir / name)
        skipped = before is not None and before == after
        end = "complete and unchanged, skipped" if skipped else _describe_end(after, since)
        print(f"{tag}: {end}", flush=True)
        gc.collect()
    print(f"{config.run_dir}: done in {time.monotonic() - started:.1f} s", flush=True)


def _describe_end(manifest: Manifest | None, since: float) -> str:
    return f"{manifest.status if manifest else 'done'} in {time.monotonic() - since:.1f} s"


def _steps(config: RunConfig, *, force: bool) -> Iterator[str]:
    """Yield the stages of the line, with ``evaluate`` after each that makes a model that it needs.

    Forced, it comes once, after the last: an earlier one would measure models about to be made
    again.
    """
    needed = references(config.stages["evaluate"])
    models = [name for name in config.line if stage_of(name) in MAKE_A_MODEL or name in needed]
    evaluated = models[-1:] if force else models
    for name in config.line:
        if name == "evaluate" or stage_of(name) == "report":
            continue
        yield name
        if "evaluate" in config.named and name in evaluated:
            yield "evaluate"
    yield from (name for name in config.line if stage_of(name) == "report")


def _status_command(argv: list[str]) -> None:
    parser = Parser("steerline status", COMMANDS["status"][0])
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    given = parser.parse_intermixed_args(argv)
    importlib.import_module("stages.status").show(load_config(given.config, given.overrides))


def _labels_command(argv: list[str]) -> None:
    importlib.import_module("stages.labels").main(argv)


def _serve_command(argv: list[str]) -> None:
    importlib.import_module("stages.serve").main(argv)


def _compare_command(argv: list[str]) -> None:
    importlib.import_module("stages.compare").main(argv)


def _user_command(argv: list[str]) -> None:
    importlib.import_module("stages.user").main(argv)


COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "run": ("Run every stage in order; skip what is complete, resume what was cut.", _run_command),
    "status": ("Show what is done, what was cut and what is stale.", _status_command),
    "compare": ("Show models' answers to the same prompts side by side.", _compare_command),
    "labels": ("Export or import judgments, or measure the labelers' agreement.", _labels_command),
    "serve": ("Serve the labeling app.", _serve_command),
    "user": ("Manage who may sign in to the labeling app.", _user_command),
}


if __name__ == "__main__":
    raise SystemExit(main())
