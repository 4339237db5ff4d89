"""Compare models' answers in the terminal: ``steerline compare CONFIG --stages sft,ppo``.

The models run in a process of their own (``pipeline.serving``), so that this one starts at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from pipeline.config.evaluate import EvaluateSection
from pipeline.config.run import MAKE_A_MODEL, RunConfig, load_config
from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import check
from pipeline.config.source import Source
from pipeline.data import read_prompts
from pipeline.errors import ConfigError, ModelError, RunError
from pipeline.model_places import find_tokenizer
from pipeline.records import Prompt
from pipeline.regression_set import FILE, RegressionSet, check_prompt
from pipeline.serving import ModelServer
from pipeline.serving_messages import GenerationRequest, ServingSettings
from stages.entry import CONFIG_HELP, OVERRIDE_HELP, Parser
from stages.interview import Interview
from stages.next_tokens import Look
from stages.subjects import find_beside, find_subjects

BASE = "pretrain"
"""The stage whose model the KL is from, unless another is named."""
GIGABYTE = 10**9


def main(argv: Sequence[str]) -> None:
    """Run ``steerline compare``.

    Raises:
        SteerlineError: for wrong arguments or a stage that is not finished, before any model is
            asked; or once all are asked, for models that failed.
    """
    given = _parse(argv)
    config = load_config(given.config, given.overrides)
    settings, look = _settings(given), _look(given)
    subjects = find_subjects(config, given.stages, given.models)
    prompts = _read_prompts(config, given)
    reference = find_beside(config, "--reference", given.reference, BASE, MAKE_A_MODEL)
    template = GenerationRequest(
        model="",
        prompt=prompts[0].messages,
        decoding=_decoding(config, given),
        samples=given.samples,
        seed=config.seed if given.seed is None else given.seed,
        reference=reference,
        reference_tokenizer=None if reference is None else find_tokenizer(Path(reference)),
        reward=find_beside(config, "--reward", given.reward, None, ("reward",)),
    )
    template.check()
    if given.save:
        _save(config, prompts)
    console = Console(file=sys.stdout, soft_wrap=False)
    interview = Interview(subjects, template, look, console, as_json=given.json)
    failures: dict[str, list[str]] = {}
    with ModelServer(settings) as server:
        for prompt in prompts:
            for column in interview.hold(server, prompt):
                if column.failure:
                    failures.setdefault(column.name, []).append(column.failure)
    if failures:
        raise ModelError(_say_failed(failures, len(prompts)))


def _parse(argv: Sequence[str]) -> Namespace:
    parser = Parser("steerline compare", "Show models' answers to the same prompts side by side.")
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    parser.add_argument(
        "--stages",
        metavar="NAMES",
        action="append",
        default=[],
        help="stages of the run, with commas between, and checkpoints as ppo.40 (all stages that "
        "have a model, unless models are named)",
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
        "--prompts",
        metavar="FILE",
        action="append",
        default=[],
        help=f"a .jsonl file of prompts; those saved are in {FILE} of the run's folder",
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
        "--memory",
        metavar="GB",
        type=float,
        help="bound of weights, keys and values held at once (half of all)",
    )
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (all)")
    parser.add_argument(
        "--next", metavar="N", type=int, help="show the N likeliest tokens at one place of answers"
    )
    parser.add_argument(
        "--at", metavar="PLACE", type=int, help="where --next looks: the token's number (1)"
    )
    parser.add_argument(
        "--save", action="store_true", help="save the prompts in the run's regression set"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object an answer and line")
    return parser.parse_intermixed_args(argv)


def _settings(given: Namespace) -> ServingSettings:
    threads = given.threads
    if threads is None:
        # The variable may list a number for each level of nesting.
        asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        threads = int(asked) if asked.isdecimal() else len(os.sched_getaffinity(0))
    settings = ServingSettings(threads=threads)
    if given.memory is not None:
        if not 0 < given.memory < math.inf:
            raise ConfigError(f"--memory must be positive, got {given.memory}. Say how many GB.")
        settings = dataclasses.replace(settings, memory_bytes=int(given.memory * GIGABYTE))
    check(settings, "")
    return settings


def _look(given: Namespace) -> Look | None:
    """Return which next tokens to show; None for none."""
    if given.next is None:
        if given.at is not None:
            raise ConfigError("--at must stand beside --next, got no --next. Add --next 10.")
        return None
    look = Look(given.next, 1 if given.at is None else given.at)
    for option, value in (("--next", look.top), ("--at", look.place)):
        if value < 1:
            raise ConfigError(f"{option} must be 1 or more, got {value}. Count from 1.")
    return look


def _decoding(config: RunConfig, given: Namespace) -> DecodingSection:
    asked = {
        name: value
        for name in ("temperature", "top_p", "top_k", "max_new_tokens")
        if (value := getattr(given, name)) is not None
    }
    section = config.section("evaluate", EvaluateSection)
    return dataclasses.replace(section.decoding, **asked)


def _read_prompts(config: RunConfig, given: Namespace) -> list[Prompt]:
    prompts = [Prompt.from_text(text) for text in given.prompt]
    for prompt in prompts:
        check_prompt(prompt.messages)
    prompts += read_prompts([Source(path) for path in given.prompts], config.seed)
    if not prompts:
        raise ConfigError("--prompt or --prompts must be given. Add --prompt 'a question'.")
    return prompts


def _save(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Put prompts in the run's regression set, and say where that is.

    Raises:
        RunError: if there is no run.
    """
    if not config.run_dir.is_dir():
        raise RunError(
            f"--save must have a run to save in, got none at {config.run_dir}. "
            "Run 'steerline run CONFIG' first."
        )
    saved = RegressionSet.of_run(config.run_dir)
    new = sum(saved.add(prompt) for prompt in prompts)
    # stdout is for the answers.
    sys.stderr.write(f"saved in {saved.path}: {new} new, {len(prompts) - new} there before\n")


def _say_failed(failures: Mapping[str, Sequence[str]], prompts: int) -> str:
    """Name the models that failed, with the first reason of each."""
    if prompts == 1:
        return " ".join(f"{name}: {reasons[0]}" for name, reasons in failures.items())
    return " ".join(
        f"{name} failed on {len(reasons)} of {prompts} prompts, first: {reasons[0]}"
        for name, reasons in failures.items()
    )
