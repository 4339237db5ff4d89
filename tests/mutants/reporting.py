"""Mutants of what the report says: calibration, what would mend it, the tax, the gate."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CALIBRATION = "pipeline/calibration.py"
TEMPERING = "pipeline/tempering.py"
BOOTSTRAP = "pipeline/bootstrap.py"
STATISTICS = "pipeline/report/statistics.py"
PERPLEXITY = "pipeline/evaluation/perplexity.py"
GATE = "pipeline/report/gate.py"
TAX = "pipeline/report/tax.py"
VERDICT = "pipeline/report/verdict.py"
BLEU = "pipeline/report/bleu.py"
OUTCOMES = "pipeline/report/outcomes.py"

REPORTING = (
    Mutant(
        "calibration: gaps of different signs cancel",
        CALIBRATION,
        "gaps = np.abs(self.sums(correct)",
        "gaps = (self.sums(correct)",
        "Timid in one bin and overconfident in another count as calibrated.",
        ("test_calibration.py",),
    ),
    Mutant(
        "calibration: equals are not averaged",
        CALIBRATION,
        "smoothed = np.repeat(means, self.equal, axis=-1)",
        "smoothed = ordered + 0 * np.repeat(means, self.equal, axis=-1)",
        "The order of the answers changes the error.",
        ("test_calibration.py",),
    ),
    Mutant(
        "temperature: inverted",
        TEMPERING,
        "return 1 / float(brentq(",
        "return float(brentq(",
        "An overconfident model would be made surer.",
        ("test_tempering.py",),
    ),
    Mutant(
        "temperature: each half at its own",
        TEMPERING,
        "halves[1 - i % 2]",
        "halves[i % 2]",
        "What is left is measured on what the temperature was fitted to.",
        ("test_tempering.py",),
    ),
    Mutant(
        "bootstrap: not expanded",
        BOOTSTRAP,
        "return float(ndtr(-stdtrit(df, (1 + level) / 2) * np.sqrt(narrow)))",
        "return (1 - level) / 2",
        "Intervals of few documents hold the truth too seldom.",
        ("report/test_coverage.py",),
    ),
    Mutant(
        "tax: signs of a byte's rest",
        STATISTICS,
        "[(1 << rest) - 1] * (rest > 0)",
        "[255] * (rest > 0)",
        "More coins show heads than were thrown.",
        ("report/test_statistics.py",),
    ),
    Mutant(
        "tax: a mean over scores instead of tasks",
        TAX,
        "means.append(sum(values) / len(values))",
        "means += values",
        "A task with more numbers of shots counts for more.",
        ("report/test_measures.py",),
    ),
    Mutant(
        "next token: padding is counted",
        PERPLEXITY,
        "flags in enumerate((found.real, found.correct & found.real))",
        "flags in enumerate((found.real, found.correct))",
        "Right guesses are found where no token was.",
        ("evaluation/test_perplexity.py",),
    ),
    Mutant(
        "verdict: falls of named stages alone",
        VERDICT,
        "Counter(stage for stage, change in changes if _fell(change))",
        "Counter(stage for stage, change in changes if stage in _names(run) and _fell(change))",
        "A stage falls and the report says that none did.",
        ("report/test_verdict.py",),
    ),
    Mutant(
        "perplexity: of any tokens",
        OUTCOMES,
        "not before or stage == run.base or not reads_alike(run, stage)",
        "not before or stage == run.base",
        "Perplexities of different tokenizers are compared.",
        ("report/test_outcomes.py",),
    ),
    Mutant(
        "bleu: stages drawn apart",
        BLEU,
        "apart = theirs - ours",
        "apart = theirs[::-1] - ours",
        "A document of one stage changes places with another document of the other.",
        ("report/test_bleu.py",),
    ),
    Mutant(
        "gate: an end of the interval decides",
        GATE,
        "passed = change.difference >= -max_tax",
        "passed = change.high >= -max_tax",
        "A fall passes for want of documents.",
        ("report/test_gate.py",),
    ),
    Mutant(
        "gate: a gain fails",
        GATE,
        "passed = change.difference >= -max_tax",
        "passed = abs(change.difference) <= max_tax",
        "A stage that got better stops the run.",
        ("report/test_gate.py",),
    ),
)
