"""Write figures and judgments as the rows of tables; no Gradio here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from labeling_ui.lab_parsing import show_order
from pipeline.agreement import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Estimate,
    mean_kendall_tau,
    pairwise_agreement,
    rating_alpha,
)
from pipeline.flag_agreement import FlagAgreement
from pipeline.labeling_quality import LabelerQuality, Screening, WinRate, for_agreement
from pipeline.provenance import Affected
from pipeline.store.accounts import Account
from pipeline.store.judged import Judged
from pipeline.store.questions import OUTPUT_FLAGS
from pipeline.store.standing import Person, Queue

Cells = list[str | int]

NONE = "-"
TIME = "%Y-%m-%d %H:%M"

QUEUE = (
    *("Kind", "Purpose", "Split", "Tasks", "Open", "Covered", "Labelers wanted", "Done", "In hand"),
)
MEASURES = ("Measure", "Value", "From", "To", "Prompts", "Counted")
FLAGS = ("Question", "Share of yes", "Alpha", "AC1", "Prompts", "Answers")
WINS = ("Stage", "Against", "Preferred", "From", "To", "Prompts", "Comparisons")
PEOPLE = (
    *("Labeler", "Group", "Account", "Admitted", "Kinds", "Removed", "Judgments", "Skipped"),
    "Seconds a task",
)
QUALITY = (
    *("Labeler", "Agrees with others", "With known answers", "On flags", "With themselves"),
    *("First shown wins", "Longer wins", "Longer wins, others", "Fast less slow"),
)
SCREENINGS = ("Labeler", "Tasks", "Flags", "Rankings", "Demonstrations", "Result")
AFFECTED = ("Stage", "Status", "Sure", "Why", "Model", "Checkpoints", "Finished")
JUDGMENTS = (
    *("No.", "When (UTC)", "Labeler", "Split", "Kind", "Purpose", "Prompt", "Order", "Revision"),
)


def queue_rows(queue: Iterable[Queue]) -> list[Cells]:
    """Write how far the tasks are."""
    return [
        [
            *(one.kind, one.purpose, one.split, one.tasks, one.open),
            # Tasks with a known answer are given to everybody: they are never covered.
            f"{1 - one.open / one.tasks:.0%}" if one.purpose == "work" else NONE,
            *(one.wanted, one.done, one.held),
        ]
        for one in queue
    ]


def agreement_rows(
    judged: Sequence[Judged], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> list[Cells]:
    """Measure how far labelers agree, and write it."""
    rankings, pairs = for_agreement(judged), for_agreement(judged, "comparison")
    measures = {
        "Pairwise agreement, a tie is half": pairwise_agreement(
            rankings, ties=True, bootstrap=bootstrap
        ),
        "Pairwise agreement, ties left out": pairwise_agreement(
            rankings, ties=False, bootstrap=bootstrap
        ),
        "Kendall's tau-b": mean_kendall_tau(rankings, bootstrap=bootstrap),
        "Krippendorff's alpha of the ratings": rating_alpha(rankings, bootstrap=bootstrap),
        "Comparisons of stages, a tie is half": pairwise_agreement(
            pairs, ties=True, bootstrap=bootstrap
        ),
    }
    return [[name, *_estimate(found)] for name, found in measures.items()]


def flag_rows(flags: Mapping[str, FlagAgreement]) -> list[Cells]:
    """Write how far labelers agree on each yes/no question, with intervals."""
    labels = {question.name: question.label for question in OUTPUT_FLAGS}
    return [
        [
            labels.get(name, name),
            percent(found.prevalence),
            interval(found.alpha),
            interval(found.ac1),
            found.prevalence.prompts if found.prevalence else 0,
            found.prevalence.count if found.prevalence else 0,
        ]
        for name, found in flags.items()
    ]


def win_rows(rates: Iterable[WinRate]) -> list[Cells]:
    """Write how often stages were preferred to one another."""
    return [[one.stage, one.against, *_estimate(one.share)] for one in rates]


def people_rows(
    people: Iterable[Person],
    accounts: Mapping[str, Account],
    quality: Mapping[str, LabelerQuality],
) -> list[Cells]:
    """Write who labels, and how much."""
    rows: list[Cells] = []
    for person in people:
        figures = quality.get(person.name)
        seconds = None if figures is None else figures.seconds
        rows.append(
            [
                person.name,
                "held out" if person.group == "held_out" else person.group,
                _account(person, accounts.get(person.name)),
                "yes" if person.admitted else "no",
                ", ".join(person.kinds) if person.kinds else "all",
                person.excluded or NONE,
                figures.judgments if figures else 0,
                person.skips,
                NONE if seconds is None else f"{seconds:.0f}",
            ]
        )
    return rows


def quality_rows(quality: Iterable[LabelerQuality]) -> list[Cells]:
    """Write how well each labeler works."""
    return [
        [
            found.labeler,
            interval(found.others, share=True),
            interval(found.gold, share=True),
            interval(found.gold_flags, share=True),
            interval(found.repeats, share=True),
            interval(found.first_wins, share=True),
            interval(found.longer_wins, share=True),
            interval(found.others_longer_wins, share=True),
            NONE if found.hurry is None else _points(found.hurry),
        ]
        for found in quality
    ]


def screening_rows(screenings: Mapping[str, Screening]) -> list[Cells]:
    """Write how labelers did in the screening test."""
    words = {True: "passed", False: "below the cut-offs", None: "incomplete"}
    return [
        [
            name,
            found.tasks,
            NONE if found.flags is None else f"{found.flags:.0%}",
            NONE if found.rankings is None else f"{found.rankings:.0%}",
            NONE if found.demonstrations is None else f"{found.demonstrations:.1f} of 7",
            words[found.passed],
        ]
        for name, found in screenings.items()
    ]


def affected_rows(affected: Iterable[Affected]) -> list[Cells]:
    """Write what a labeler's work went into."""
    return [
        [
            one.stage,
            one.status,
            "yes" if one.certain else "may be",
            one.reason,
            one.model_hash[:12] or NONE,
            ", ".join(map(str, one.checkpoints)) or NONE,
            one.finished[:16].replace("T", " ") or NONE,
        ]
        for one in affected
    ]


def judgment_rows(numbered: Iterable[tuple[int, Judged]]) -> list[Cells]:
    """Write judgments for the explorer, each with its number in the list."""
    return [
        [
            number,
            item.created.strftime(TIME),
            item.labeler,
            item.split,
            item.kind,
            item.purpose,
            excerpt(item.prompt.messages[-1]["content"], 60),
            show_order(item.ranks),
            item.revision,
        ]
        for number, item in numbered
    ]


def percent(found: Estimate | None) -> str:
    """Write a share as a percentage."""
    return NONE if found is None else f"{found.value:.1%}"


def interval(found: Estimate | None, *, share: bool = False) -> str:
    """Write an estimate with its interval."""
    if found is None:
        return NONE
    if share:
        return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _estimate(found: Estimate | None) -> Cells:
    if found is None:
        return ["undefined", NONE, NONE, 0, 0]
    ends = [f"{value:.3f}" for value in (found.value, found.low, found.high)]
    return [*ends, found.prompts, found.count]


def _points(found: Estimate) -> str:
    ends = (f"{100 * value:+.0f}" for value in (found.low, found.high))
    return f"{100 * found.value:+.0f} points ({' to '.join(ends)})"


def _account(person: Person, account: Account | None) -> str:
    if account is None:
        return "simulated" if person.kind == "simulated" else "none"
    return f"{account.role}, disabled" if account.disabled else account.role


def excerpt(text: str, length: int = 80) -> str:
    """Return how a text begins, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def ticked(flags: Mapping[str, bool]) -> str:
    """Return yes/no observations in words: ``violent, not sexual``."""
    return ", ".join(name if yes else f"not {name}" for name, yes in sorted(flags.items()))
