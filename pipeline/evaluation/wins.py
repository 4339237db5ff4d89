"""Compare stages' answers to the same held-out prompts, by every judge that there is.

Judges are the tiny world's gold, the run's reward model, a language model behind a URL, and
labelers: their comparisons come from the label store and are of completions that ``sample`` drew.
Beside the table of who is preferred to whom stands each policy's way from what PPO started from,
through its checkpoints: what the reward model sees of the gain, what the others see, at what KL.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from pipeline.artifacts import write_json
from pipeline.config.win_rates import JudgeSection, WinRatesSection
from pipeline.errors import JudgeError
from pipeline.evaluation.answers import AnswerMeter
from pipeline.evaluation.best_of import spread
from pipeline.evaluation.contestants import Contestant
from pipeline.evaluation.contests import (
    LLM,
    REWARD,
    VALUES,
    Answers,
    Judgments,
    Point,
    between,
    compare_people,
    compare_values,
    describe_point,
    describe_start,
    flatten_figures,
    pair_stages,
    with_rival,
)
from pipeline.llm_judge import LlmJudge, Pair, PairVerdict, write_prompt
from pipeline.preferences import Comparison
from pipeline.runs import JUDGMENTS
from pipeline.store.judged import Judged
from pipeline.win_rates import describe_judge, to_rows

WIN_RATES = "win_rates.json"
PORTION = 64
"""Pairs, at least, that the language model judges between two times that all processes meet."""
MOST_SILENT = 0.5
"""Share of pairs without a verdict beyond which a judge is none."""

Pairs = Sequence[tuple[str, str]]


class WinRateEvaluator:
    """Compare contestants' answers.

    Args:
        section: what to compare.
        where: dotted path of the section, for errors.
        meter: measures the answers.
        folder: the evaluation's folder.
    """

    def __init__(
        self, section: WinRatesSection, where: str, meter: AnswerMeter, folder: Path
    ) -> None:
        self.section, self.where, self.meter, self.folder = section, where, meter, folder
        self.workers, self.seed = meter.workers, meter.seed
        self._silent = 0

    def evaluate(
        self, contestants: Sequence[Contestant], judged: Sequence[Judged] | None, rival: str
    ) -> Mapping[str, Mapping[str, float]]:
        """Measure what is missing, compare, write ``win_rates.json``; return figures by stage.

        Args:
            contestants: in the order of the line, checkpoints after all stages.
            judged: labelers' comparisons, or None.
            rival: the stage that the returned win rates are against.

        Raises:
            JudgeError: if the language model is out of reach, or gives no verdicts.
        """
        by_name = {each.name: each for each in contestants}
        answers: dict[str, Answers] = {}
        for name, contestant in by_name.items():
            measured = self.meter.measure(contestant, by_name.get(contestant.start or ""))
            answers[name] = {str(row["prompt_id"]): row for row in measured}
        finished = [each.name for each in contestants if each.step is None]
        asked = self.section.stages
        compared = [name for name in finished if not asked or name in asked]
        found = self._compare(pair_stages(compared, self.section.against), answers)
        silent = self._silent
        found |= compare_people(judged or (), asked or None)
        judges = {
            name: describe_judge(shown, finished, seed=self.seed)
            for name, own in found.items()
            if (shown := with_rival(own, self.section.against))
        }
        rows = {name: to_rows(figures) for name, figures in judges.items()}
        if LLM in rows and self.section.judge is not None:
            rows[LLM] |= {"model": self.section.judge.model, "without_verdict": silent}
        if REWARD in rows and self.meter.reward is not None:
            rows[REWARD] |= {"model": self.meter.reward.stage}
        ways = [
            {"stage": own.name, "start": own.start, "points": to_rows(points)}
            for own in contestants
            if own.step is None and own.start is not None
            for points in [self._follow(own, own.start, contestants, answers, found)]
        ]
        written = {"stages": compared, "judges": rows, "trajectories": ways}
        self.workers.on_main(lambda: write_json(self.folder / WIN_RATES, written))
        return flatten_figures(judges, rival)

    def _compare(
        self, pairs: Pairs, answers: Mapping[str, Answers], *, ask: bool = True
    ) -> dict[str, list[Comparison]]:
        """Return the comparisons of pairs of contestants, by judge.

        Args:
            pairs: whose answers are compared.
            answers: of each.
            ask: ask the language model too, where there is one.
        """
        found = {
            judge: [
                one
                for ours, theirs in pairs
                for one in compare_values(key, ours, theirs, answers[ours], answers[theirs])
            ]
            for judge, key in VALUES.items()
        }
        if ask and self.section.judge is not None and pairs:
            found[LLM] = self._ask(self.section.judge, pairs, answers)
        return found

    def _follow(
        self,
        own: Contestant,
        start: str,
        contestants: Sequence[Contestant],
        answers: Mapping[str, Answers],
        known: Judgments,
    ) -> tuple[Point, ...]:
        """Return a policy's way: its start, its checkpoints, and the finished stage."""
        points = [describe_start(start, answers[start], self.seed)]
        taken = [each for each in contestants if each.step is not None and each.stage == own.name]
        for each in (*taken, own):
            # What stands in the table is not asked again; people compared stages only.
            told = {judge: between(all_of, each.name, start) for judge, all_of in known.items()}
            told = {judge: compared for judge, compared in told.items() if compared}
            judgments = self._compare([(each.name, start)], answers, ask=LLM not in told) | told
            own_answers = answers[each.name]
            points.append(describe_point(each.name, each.step, own_answers, judgments, self.seed))
        return tuple(points)

    def _ask(
        self, section: JudgeSection, pairs: Pairs, answers: Mapping[str, Answers]
    ) -> list[Comparison]:
        """Let the language model compare answers, in portions, from the main process."""
        asked = [
            (prompt, ours, theirs)
            for prompt in spread(self.meter.prompts, section.limit)
            for ours, theirs in pairs
            if prompt.id in answers[ours] and prompt.id in answers[theirs]
        ]
        questions = [
            Pair(
                write_prompt(prompt.messages),
                answers[ours][prompt.id]["completion"],
                answers[theirs][prompt.id]["completion"],
            )
            for prompt, ours, theirs in asked
        ]
        verdicts: list[PairVerdict | None] = []
        size = max(PORTION, 4 * section.concurrency)
        starts = range(0, len(questions), size)
        for start in tqdm(starts, desc=section.model, unit="portion", leave=False, disable=None):
            portion = questions[start : start + size]
            verdicts += self.workers.on_main(functools.partial(self._judge, section, portion))
        self._silent = verdicts.count(None)
        if self._silent > MOST_SILENT * len(questions):
            raise JudgeError(
                f"{self.where}.judge.model must reply with a verdict, got none from "
                f"{section.model!r} on {self._silent} of {len(questions)} pairs. "
                "Mend the template, or raise max_tokens."
            )
        return [
            Comparison(
                prompt.id,
                ours,
                theirs,
                verdict.preference,
                len(pair.ours) - len(pair.theirs),
                verdict.first,
                same=pair.ours == pair.theirs,
            )
            for (prompt, ours, theirs), pair, verdict in zip(
                asked, questions, verdicts, strict=True
            )
            if verdict is not None
        ]

    def _judge(self, section: JudgeSection, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        cache = self.folder / JUDGMENTS / "llm.jsonl"
        with LlmJudge(section, f"{self.where}.judge", cache) as judge:
            return judge.compare(pairs)
