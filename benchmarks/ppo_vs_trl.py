"""Compare our PPO with the last one that TRL had (1.12.0): episodes a second and peak memory.

``python -m benchmarks.ppo_vs_trl [--quick] [--threads N] [--pairs 3] [--cases NAME ...]`` prints a
table and, as its last line, one JSON object: the ratio of each case, ``hydra_memory``, ``cases``.

Both sides run in this run, alternating, each measurement in a fresh process with the same torch,
transformers and accelerate: random weights of SmolLM2-135M's shape, prompts of 64 tokens,
completions of up to 64, rollouts of 8, 4 epochs of 4 minibatches unless the row says otherwise, a
learning rate of 3e-6. TRL is installed into ``build/peers``, alone.

* Lengths. ``fixed`` ends every completion at its 64th token, ``eos`` where the same prompt's place
  in a recorded list says (``results/completion-lengths.json``, an SFT model on held-out prompts). A
  logits processor on both sides forbids the end before that token and forces it there
  (``benchmarks.forced_lengths``); each side reports its lengths, and they are checked.
* Precision. ``fp32`` with transformers' ``sdpa`` attention on both sides, or ``best``: each side at
  the fastest of ``SETTINGS``, as the fixed lengths of this run show: fp32 or bf16 (ours
  ``precision: bf16``; TRL ``bf16=True`` under ``ACCELERATE_MIXED_PRECISION=bf16``), ``sdpa`` or
  ``eager`` attention.
* Adapters. ``hydra`` is our four models on one backbone, the values a head on the policy
  (``ppo.hydra``), against TRL with all weights trained: the algorithm differs, prompts, tokens and
  epochs are the same. TRL with LoRA on the policy alone stands beside it.
* Memory. The peak resident set of each fresh process, imports and all.
* Utilisation. Operations that one iteration needs, counted alike for all sides
  (``subjects.ppo_work``), over its seconds and this machine's matmul rate in that precision.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.peers import TRL_WITH_PPO, install
from benchmarks.side_by_side import (
    ROOT,
    Figures,
    alternate,
    answer,
    compare,
    median_of,
    note,
    parser,
    spread,
    start_side,
    table,
)
from benchmarks.subjects import SHAPES, make_models, ppo_work, spread_of
from stages.entry import run_command

SIDES = ("ours", "trl")
LEARNED = ROOT / "benchmarks" / "results" / "ppo-seeds.json"
BESIDE = "trl LoRA"
"""A side that is shown, and not compared: TRL's trainer with adapters on the policy alone."""
DIFFERENCES = (
    "Same: weights, prompts and their order, completion lengths, rollouts, epochs, minibatches,",
    "  AdamW's numbers, no dropout, no moving average, no pretraining term; in fp32 the kernel of",
    "  attention.",
    "More on our side: one more pass of the policy over each rollout, for old log-probabilities of",
    "  the training forward; clipped gradient norms of policy and value model.",
    "Ours keeps freed memory for its next tensors, and multiplies float32 with oneDNN, not MKL.",
    "More on TRL's: logits of the prompts, in reference and training; all hidden states kept, and",
    "  the logits of every generated token; a batch that generates until its longest row ends, and",
    "  is padded to it in score and training.",
    "Under bf16, TRL's trainer computes the training passes so; generation and scores stay fp32.",
)


class Setting(NamedTuple):
    """What a side computes with: a precision, and one of transformers' attention kernels."""

    precision: str
    attention: str


PLAIN = Setting("float32", "sdpa")
SETTINGS = (PLAIN, Setting("bf16", "sdpa"), Setting("bf16", "eager"))


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: its key in the JSON.
        mode: which of our weights are trained, a key of ``ppo_sides.OUR_MODELS``; TRL's trains all.
        precision: ``float32``, or ``best`` for each side's fastest setting.
        lengths: ``fixed`` or ``eos``.
        epochs: passes over a rollout.
        minibatches: optimizer steps a pass.
    """

    name: str
    mode: str
    precision: Literal["float32", "best"]
    lengths: Literal["fixed", "eos"]
    epochs: int = 4
    minibatches: int = 4

    @property
    def modes(self) -> dict[str, str]:
        """Return which weights each side trains; TRL's adapters stand beside ours."""
        beside = {BESIDE: "lora"} if self.mode == "hydra" else {}
        return {"ours": self.mode, "trl": "full", **beside}


CASES = (
    Case("full_fp32_fixed", "full", "float32", "fixed"),
    Case("full_fp32_fixed_1x1", "full", "float32", "fixed", epochs=1, minibatches=1),
    Case("full_best_fixed", "full", "best", "fixed"),
    Case("full_best_eos", "full", "best", "eos"),
    Case("hydra_fixed", "hydra", "best", "fixed"),
    Case("hydra_eos", "hydra", "best", "eos"),
)


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        shape: of all four models.
        prompt_tokens: of every prompt.
        max_new_tokens: limit of a completion.
        batch: episodes an iteration.
        warm_up: iterations of a process that are not counted.
        counted: iterations of a process that are.
        pairs: processes a side and case.
    """

    shape: str = "smollm2-135m"
    prompt_tokens: int = 64
    max_new_tokens: int = 64
    batch: int = 8
    warm_up: int = 1
    counted: int = 2
    pairs: int = 3

    @property
    def episodes(self) -> int:
        """Return how many completions one process makes."""
        return (self.warm_up + self.counted) * self.batch


QUICK = Size(shape="tiny", prompt_tokens=16, max_new_tokens=16, counted=1, pairs=1)


class Measurements:
    """Measure cases, each side and precision once, and keep what was measured.

    Args:
        size: how much is measured.
        recorded: lengths for the ``eos`` cases.
        threads: of every process.
    """

    def __init__(self, size: Size, recorded: Sequence[int], *, threads: int) -> None:
        self.size, self.recorded, self.threads = size, recorded, threads
        self.models = make_models(size.shape)
        self.peer = install(TRL_WITH_PPO)
        self._known: dict[tuple[Any, ...], dict[str, list[Figures]]] = {}
        self._best: dict[str, Setting] = {}

    def of(self, case: Case) -> dict[str, list[Figures]]:
        """Return each side's figures, one a pair, its setting among them."""
        if case.precision == "float32":
            return self._measure(case, dict.fromkeys(case.modes, PLAIN))
        best = self._best_settings()
        if case.lengths == "eos" or case.mode != "full":
            return self._measure(case, {side: best[side.split()[0]] for side in case.modes})
        each = {setting: self._measure(case, dict.fromkeys(SIDES, setting)) for setting in SETTINGS}
        return {side: each[best[side]][side] for side in SIDES}

    def _best_settings(self) -> dict[str, Setting]:
        """Return the setting in which each side trains all weights fastest, at fixed lengths."""
        if not self._best:
            fixed = Case("", "full", "float32", "fixed")
            rates: dict[str, dict[Setting, float]] = {side: {} for side in SIDES}
            for setting in SETTINGS:
                measured = self._measure(fixed, dict.fromkeys(SIDES, setting))
                for side, figures in measured.items():
                    rates[side][setting] = median_of(figures, "episodes_per_second")
            self._best = {side: max(of, key=of.__getitem__) for side, of in rates.items()}
        return self._best

    def _measure(self, case: Case, settings: dict[str, Setting]) -> dict[str, list[Figures]]:
        key = (case.mode, case.lengths, case.epochs, case.minibatches, *settings.values())
        if key not in self._known:
            described = {side: " ".join(setting) for side, setting in settings.items()}
            note(f"{case.mode}, {case.lengths}, {case.epochs}x{case.minibatches}, {described}")
            sides = {
                side: functools.partial(self._run, case, side, settings[side])
                for side in case.modes
            }
            self._known[key] = alternate(sides, self.size.pairs, note)
        return self._known[key]

    def _run(self, case: Case, side: str, setting: Setting, pair: int) -> Figures:
        size, lengths = self.size, self.lengths(case, pair)
        program = side.split()[0]
        order = {
            "side": program,
            "mode": case.modes[side],
            **setting._asdict(),
            "shape": size.shape,
            "policy": str(self.models.policy),
            "reward": str(self.models.reward),
            "prompt_tokens": size.prompt_tokens,
            "max_new_tokens": size.max_new_tokens,
            "lengths": lengths,
            "batch": size.batch,
            "epochs": case.epochs,
            "minibatches": case.minibatches,
            "warm_up": size.warm_up,
            "threads": self.threads,
        }
        path = self.peer if program == "trl" else None
        figures = start_side("benchmarks.ppo_sides", order, threads=self.threads, path=path)
        counted = [min(n, size.max_new_tokens) for n in lengths[size.warm_up * size.batch :]]
        mode = case.modes[side]
        work = ppo_work(SHAPES[size.shape], size.prompt_tokens, counted, case.epochs, mode)
        rate = work / size.counted / figures["seconds"]
        return {**figures, **setting._asdict(), "flops_per_second": rate}

    def lengths(self, case: Case, pair: int) -> list[int]:
        """Return the lengths of a pair's completions; pairs go on in the recorded list."""
        count = self.size.episodes
        if case.lengths == "fixed":
            return [self.size.max_new_tokens] * count
        return [self.recorded[(pair * count + i) % len(self.recorded)] for i in range(count)]


def summarize(measured: dict[str, list[Figures]], rates: dict[str, float]) -> Figures:
    """Put one case's pairs together: each side's medians, the ratio of the rates and its spread.

    Args:
        measured: each side's figures, one a pair.
        rates: the machine's matmul rate by precision, operations a second.
    """
    by_side = {
        side: {
            "precision": figures[0]["precision"],
            "attention": figures[0]["attention"],
            **{
                name: median_of(figures, name)
                for name in ("episodes_per_second", "seconds", "rollout_seconds", "peak_bytes")
            },
            "utilisation": median_of(figures, "flops_per_second") / rates[figures[0]["precision"]],
        }
        for side, figures in measured.items()
    }
    paired = [[one["episodes_per_second"] for one in measured[side]] for side in SIDES]
    memory = by_side["ours"]["peak_bytes"] / by_side["trl"]["peak_bytes"]
    return {**compare(*paired)._asdict(), "memory_ratio": memory, **by_side}


def show(cases: Sequence[Case], found: dict[str, Figures]) -> str:
    """Lay out the cases as a table, a line a side."""
    header = ["case", "epochs x minibatches", "side", "setting", "episodes/s", "s/iteration"]
    header += ["of it rollout", "peak GiB", "utilisation", "ours / TRL [low, high]"]
    rows = []
    for case in cases:
        figures = found[case.name]
        for side in case.modes:
            one = figures[side]
            rows.append(
                [
                    case.name if side == "ours" else "",
                    f"{case.epochs} x {case.minibatches}" if side == "ours" else "",
                    side,
                    f"{one['precision']} {one['attention']}",
                    f"{one['episodes_per_second']:.3f}",
                    f"{one['seconds']:.1f}",
                    f"{one['rollout_seconds']:.1f}",
                    f"{one['peak_bytes'] / 2**30:.2f}",
                    f"{one['utilisation']:.0%}",
                    spread(figures) if side == "ours" else "",
                ]
            )
    return table(header, rows)


def show_learning(path: Path = LEARNED) -> str:
    """Lay out what each of our modes learned on the tiny world, as ``ppo_seeds`` recorded it."""
    modes = json.loads(path.read_text(encoding="utf-8"))["modes"]
    names = {"start_scores": "score before", "scores": "after", "kl": "KL", "win_rate": "win rate"}
    rows = [
        [mode, str(of["seeds"])]
        + [f"{of[name]['mean']:.3f} (sd {of[name]['sd']:.3f})" for name in names]
        for mode, of in modes.items()
    ]
    return table(["mode", "seeds", *names.values()], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    names = [case.name for case in CASES]
    arguments = parser("ppo_vs_trl", __doc__)
    arguments.add_argument("--cases", nargs="+", choices=names, default=names, metavar="NAME")
    given = arguments.parse_args(argv)

    def work() -> None:
        from benchmarks.forced_lengths import recorded_lengths

        size = QUICK if given.quick else Size()
        size = dataclasses.replace(size, pairs=given.pairs or size.pairs)
        recorded = recorded_lengths(size.max_new_tokens)
        lengths = spread_of([min(n, size.max_new_tokens) for n in recorded])
        machine = start_side(
            "benchmarks.machine", {"threads": given.threads}, threads=given.threads
        )
        measurements = Measurements(size, recorded, threads=given.threads)
        cases = [case for case in CASES if case.name in given.cases]
        rates = machine["matmul_flops_per_second"]
        found = {case.name: summarize(measurements.of(case), rates) for case in cases}
        print(show(cases, found))
        print("\n".join(["", "Where the work differs:", *DIFFERENCES]))
        print("\nOurs after 20 iterations on the tiny world, held-out prompts (ppo_seeds):")
        print(show_learning(), end="\n\n")
        print(f"Recorded lengths, tokens: {lengths}")
        print(f"Machine: {machine}")
        ratios = {name: one["ratio"] for name, one in found.items()}
        if "hydra_fixed" in found:
            ratios["hydra_memory"] = found["hydra_fixed"]["memory_ratio"]
        used = dataclasses.asdict(size)
        answer({**ratios, "cases": found, "lengths": lengths, "machine": machine, "size": used})

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
