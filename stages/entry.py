"""Be the entry of every stage: arguments in, exit code out.

``steerline ppo CONFIG``, ``python -m stages.ppo CONFIG`` and ``accelerate launch -m stages.ppo
CONFIG`` meet here, so that they are one stage. No torch: ``--help`` and a wrong argument answer at
once. What the process should be (no telemetry, quiet in a pipe) is set when a command starts, never
at import.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from pipeline.config.run import RunConfig, load_config, stage_of
from pipeline.config.schema import Section
from pipeline.errors import ConfigError, RegressionError, SteerlineError
from pipeline.runs import Alone, Crew
from stages.fields import WIDTH, describe_stage

NO_TELEMETRY = {
    # huggingface_hub's, and TRL's trainers by way of it.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
LESS_TALK = {
    "TRANSFORMERS_VERBOSITY": "warning",
    "LMEVAL_LOG_LEVEL": "WARNING",
    # It tells of every retry; the error at the end says that there is no connection.
    "HF_HUB_VERBOSITY": "error",
}
NO_BARS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
PREFIX = "steerline: "
CONFIG_HELP = "the run's YAML"
OVERRIDE_HELP = "configuration set here, e.g. ppo.kl_coef=0.05"
FORCE_HELP = "overwrite a finished stage, or one made from other inputs"


class Speaker(logging.Handler):
    """Say a warning of ours as errors are said: in one line on stderr, by the first process."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one warning."""
        _say(" ".join(record.getMessage().splitlines()))


class StageFunction(Protocol):
    """The ``run`` of a stage's module."""

    def __call__(self, config: RunConfig, name: str, *, force: bool = False) -> None:
        """Run the stage or variant called ``name``."""


class Parser(argparse.ArgumentParser):
    """Parse a command's arguments; a wrong one is one line, and the help goes on with ``tail``.

    Args:
        prog: the command as the user writes it.
        description: one line on what it does.
        tail: text after argparse's own help, made only when help is asked for.
    """

    def __init__(self, prog: str, description: str, tail: Callable[[], str] = str) -> None:
        super().__init__(
            prog,
            description=description,
            allow_abbrev=False,
            formatter_class=functools.partial(argparse.HelpFormatter, width=WIDTH),
        )
        self._tail = tail

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage: the command line has one way to say what is wrong.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message}. See '{self.prog} --help'.")

    def format_help(self) -> str:
        """Return argparse's help and the tail."""
        return "\n".join(filter(None, [super().format_help(), self._tail()]))


def add_run_arguments(parser: Parser) -> None:
    """Add what every command that runs stages takes."""
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


def stage_parser(stage: str, prog: str) -> Parser:
    """Return the parser of one stage's command; its help lists the section's every field."""
    parser = Parser(prog, f"Run the stage '{stage}'.", lambda: describe_stage(stage))
    add_run_arguments(parser)
    return parser


def run_stage_module(stage: str, run: StageFunction, argv: Sequence[str] | None = None) -> int:
    """Run a stage's module as a command and return its exit code.

    Args:
        stage: the stage that the module implements.
        run: the module's ``run``.
        argv: the arguments, ``sys.argv[1:]`` by default.
    """

    def work() -> None:
        parser = stage_parser(stage, f"python -m stages.{stage}")
        parser.add_argument(
            "--variant", metavar="NAME", default=stage, help=f"run {stage}@NAME of the CONFIG"
        )
        given = parser.parse_intermixed_args(argv)
        name = given.variant if stage_of(given.variant) == stage else f"{stage}@{given.variant}"
        config = load_config(given.config, given.overrides)
        config.section(name, Section)
        run(config, name, force=given.force)

    return run_command(work)


def join_crew() -> Crew:
    """Return the crew of a stage that computes nothing: alone, or those that were launched with it.

    Torch is loaded only where there are others to wait for.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    workers: Crew = importlib.import_module("pipeline.distributed").Workers()
    return workers


def run_command(work: Callable[[], None]) -> int:
    """Do a command's work in a prepared process and return its exit code.

    0 is done; 2 is a mistake of the user's, said in one line on stderr; 3 a model that lost more
    than ``evaluate.max_tax``, said so too; 130 is an interruption. Any other exception is a fault
    of ours and passes, for Python to print its traceback and exit with 1. Of several processes only
    the first speaks: all meet the same error.
    """
    prepare_process()
    try:
        work()
        _leave_crew()
    except SteerlineError as error:
        _say(" ".join(str(error).splitlines()))
        return 3 if isinstance(error, RegressionError) else 2
    except KeyboardInterrupt:
        _say("interrupted. Run the same command again to go on.")
        return 130
    return 0


def _leave_crew() -> None:
    joined = sys.modules.get("pipeline.distributed")
    if joined is not None:
        joined.leave()


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.flush()
        sys.stderr.write(f"{PREFIX}{line}\n")


def prepare_process() -> None:
    """Switch telemetry off, and progress bars where stdout is no terminal; give warnings a voice.

    What the user has set in the environment stands. Libraries read these variables when they are
    imported, and under ``python -m stages.ppo`` they already are: those are told directly.
    """
    ours = logging.getLogger("pipeline")
    if not any(isinstance(handler, Speaker) for handler in ours.handlers):
        ours.addHandler(Speaker(logging.WARNING))
    quiet = {} if sys.stdout.isatty() else NO_BARS
    unset = [name for name in NO_TELEMETRY if name not in os.environ]
    for name, value in {**NO_TELEMETRY, **LESS_TALK, **quiet}.items():
        os.environ.setdefault(name, value)
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None and "HF_HUB_DISABLE_TELEMETRY" in unset:
        hub.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
    if os.environ["HF_HUB_VERBOSITY"] == "error":
        _tell("huggingface_hub.utils.logging", "set_verbosity_error")
    if quiet:
        _tell("transformers.utils.logging", "disable_progress_bar")
        _tell("datasets.utils.tqdm", "disable_progress_bars")


def _tell(module: str, switch: str) -> None:
    loaded = sys.modules.get(module)
    if loaded is not None:
        getattr(loaded, switch)()
