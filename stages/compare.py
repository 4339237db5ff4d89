"""Compare models' answers in the terminal: ``steerline compare CONFIG --stages sft,ppo``.

The models run in a process of their own (``pipeline.serving``), so that this one starts at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live

from pipeline.config.evaluate import EvaluateSection
from pipeline.config.run import RunConfig, load_config, stage_of
from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import check
from pipeline.config.source import Source
from pipeline.data import read_prompts
from pipeline.errors import ConfigError, RunError, nearest
from pipeline.records import Prompt
from pipeline.runs import Manifest, model_of
from pipeline.serving import STARTING, ModelServer
from pipeline.serving_messages import GenerationRequest, Notice, Place, ServingSettings
from stages.answer_columns import Column, rows_of, tabulate, write_plain
from stages.entry import CONFIG_HELP, OVERRIDE_HELP, Parser

MAKE_A_MODEL = ("pretrain", "sft", "ppo")
NONE = "none"
BASE = "pretrain"
"""The stage whose model the KL is from, unless another is named."""
REFRESH = 0.1
"""Seconds between two pictures of growing answers."""
GIGABYTE = 10**9

logger = logging.getLogger(f"pipeline.{__name__}")


class Subject(NamedTuple):
    """A model to compare: what the column is called, and where the model is."""

    name: str
    place: Place


def main(argv: Sequence[str]) -> None:
    """Run ``steerline compare``.

    Raises:
        SteerlineError: for wrong arguments, a stage that is not finished, or a model that fails.
    """
    given = _parse(argv)
    config = load_config(given.config, given.overrides)
    settings = _settings(given)
    subjects = find_subjects(config, given.stages, given.models)
    prompts = _read_prompts(config, given)
    template = GenerationRequest(
        model="",
        prompt=prompts[0].messages,
        decoding=_decoding(config, given),
        samples=given.samples,
        seed=config.seed if given.seed is None else given.seed,
        reference=_find_beside(config, "--reference", given.reference, BASE, MAKE_A_MODEL),
        reward=_find_beside(config, "--reward", given.reward, None, ("reward",)),
    )
    template.check()
    console = Console(file=sys.stdout, soft_wrap=False)
    with ModelServer(settings) as server:
        for prompt in prompts:
            columns = _answer(server, template, subjects, prompt, console, live=not given.json)
            _show(prompt, columns, subjects, console, as_json=given.json)


def _parse(argv: Sequence[str]) -> Namespace:
    parser = Parser("steerline compare", "Show models' answers to the same prompts side by side.")
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    parser.add_argument(
        "--stages",
        metavar="NAMES",
        action="append",
        default=[],
        help="stages of the run, with commas between (all that have a model, unless models are "
        "named)",
    )
    parser.add_argument(
        "--models",
        metavar="NAME=PLACE",
        action="extend",
        nargs="+",
        default=[],
        help="other models: a folder, a GGUF file or a Hugging Face name, and what to call it",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", default=[], help="a prompt; may be repeated"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", action="append", default=[], help="a .jsonl file of prompts"
    )
    parser.add_argument("--samples", metavar="N", type=int, default=1, help="answers a prompt (1)")
    parser.add_argument(
        "--temperature", type=float, help="0 is greedy (this and what follows: evaluate.decoding)"
    )
    parser.add_argument("--top-p", type=float, help="share of probability that is sampled from")
    parser.add_argument("--top-k", type=int, help="likeliest tokens that are sampled from")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="where answers are cut")
    parser.add_argument("--seed", type=int, help="of the sampling (the run's)")
    parser.add_argument(
        "--reward",
        metavar="STAGE",
        help="what scores: a stage, a model's place, or none (the first finished reward stage)",
    )
    parser.add_argument(
        "--reference",
        metavar="STAGE",
        help=f"what the KL is from: a stage, a model's place, or none ({BASE})",
    )
    parser.add_argument(
        "--memory", metavar="GB", type=float, help="bound of the weights held at once (half of all)"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (all)")
    parser.add_argument("--json", action="store_true", help="one JSON object an answer and line")
    return parser.parse_intermixed_args(argv)


def _settings(given: Namespace) -> ServingSettings:
    threads = given.threads
    if threads is None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    settings = ServingSettings(threads=threads)
    if given.memory is not None:
        settings = dataclasses.replace(settings, memory_bytes=int(given.memory * GIGABYTE))
    check(settings, "")
    return settings


def _decoding(config: RunConfig, given: Namespace) -> DecodingSection:
    asked = {
        name: value
        for name in ("temperature", "top_p", "top_k", "max_new_tokens")
        if (value := getattr(given, name)) is not None
    }
    section = config.section("evaluate", EvaluateSection)
    return dataclasses.replace(section.decoding, **asked)


def find_subjects(config: RunConfig, stages: Sequence[str], models: Sequence[str]) -> list[Subject]:
    """Return the models to compare, those of the run first.

    Args:
        config: the run.
        stages: names, several in one with commas between; none with no models either means all
            finished ones.
        models: ``NAME=PLACE`` each.

    Raises:
        ConfigError: if there is no such stage, a name is given twice, or a model has no name.
        RunError: if a stage is not finished, or none is.
    """
    names = [name.strip() for given in stages for name in given.split(",") if name.strip()]
    if not names and not models:
        names = _finished(config, *MAKE_A_MODEL)
        if not names:
            raise RunError(
                f"No model in {config.run_dir} to compare. Run 'steerline run CONFIG' first."
            )
    subjects = [Subject(name, _stage_model(config, "--stages", name)) for name in names]
    for model in models:
        name, equals, place = model.partition("=")
        if not (name and equals and place):
            raise ConfigError(
                f"--models must have the form NAME=PLACE, got {model!r}. Write e.g. mine=FOLDER."
            )
        subjects.append(Subject(name, place))
    called = [subject.name for subject in subjects]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"--stages and --models must name each model once, got {twice!r} twice. Call one of "
            "them otherwise."
        )
    return subjects


def _stage_model(
    config: RunConfig, option: str, name: str, kinds: Sequence[str] = MAKE_A_MODEL
) -> Path:
    valid = [stage for stage in config.stages if stage_of(stage) in kinds]
    if name not in valid:
        raise ConfigError(
            f"{option} must name a {' or '.join(kinds)} stage of this run, got {name!r}."
            f"{nearest(name, valid)}"
        )
    return model_of(config, name)


def _finished(config: RunConfig, *kinds: str) -> list[str]:
    found = []
    for name in config.stages:
        manifest = Manifest.read(config.run_dir / name) if stage_of(name) in kinds else None
        if manifest is not None and manifest.status == "complete":
            found.append(name)
    return found


def _find_beside(
    config: RunConfig, option: str, asked: str | None, default: str | None, kinds: Sequence[str]
) -> Place | None:
    """Return the model that scores, or that the KL is from; None for none."""
    if asked == NONE:
        return None
    if asked is None:
        finished = _finished(config, *kinds)
        name = next((one for one in finished if default in (None, one)), None)
        return None if name is None else model_of(config, name)
    if asked not in config.stages and ("/" in asked or Path(asked).exists()):
        return asked
    return _stage_model(config, option, asked, kinds)


def _read_prompts(config: RunConfig, given: Namespace) -> list[Prompt]:
    prompts = [Prompt.from_text(text) for text in given.prompt]
    prompts += read_prompts([Source(path) for path in given.prompts], config.seed)
    if not prompts:
        raise ConfigError("--prompt or --prompts must be given. Add --prompt 'a question'.")
    return prompts


def _answer(
    server: ModelServer,
    template: GenerationRequest,
    subjects: Sequence[Subject],
    prompt: Prompt,
    console: Console,
    *,
    live: bool,
) -> list[Column]:
    """Let all models answer a prompt and return the columns; a terminal shows them growing."""
    columns = [Column(subject.name) for subject in subjects]
    requests = [
        dataclasses.replace(
            template,
            model=subject.place,
            prompt=prompt.messages,
            reference=None if subject.place == template.reference else template.reference,
        )
        for subject in subjects
    ]
    with contextlib.ExitStack() as open_ends:
        stream = open_ends.enter_context(server.generate_all(requests))
        picture = None
        if live and console.is_terminal:
            picture = open_ends.enter_context(
                Live(console=console, auto_refresh=False, transient=True)
            )
        shown = 0.0
        while True:
            try:
                event = stream.poll(REFRESH)
            except StopIteration:
                return columns
            if event is not None and event[1] != Notice(STARTING):
                columns[event[0]].take(event[1])
            if picture is not None and time.monotonic() - shown > REFRESH:
                picture.update(tabulate(prompt, columns, template.samples), refresh=True)
                shown = time.monotonic()


def _show(
    prompt: Prompt,
    columns: Sequence[Column],
    subjects: Sequence[Subject],
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Write the finished answers: as JSON, as a table in a terminal, or one after the other."""
    if not as_json and console.is_terminal:
        samples = max(len(column.finished) for column in columns)
        console.print(tabulate(prompt, columns, samples))
        return
    for notice in dict.fromkeys(text for column in columns for text in column.notices):
        logger.warning("%s", notice)
    if as_json:
        for row in rows_of(prompt, columns, [str(subject.place) for subject in subjects]):
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        write_plain(console, prompt, columns)
