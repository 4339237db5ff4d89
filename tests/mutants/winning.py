"""Mutants of win rates: who is preferred, also at equal lengths, and how a judge is asked."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

BOOTSTRAP = "pipeline/bootstrap.py"
PREFERENCES = "pipeline/preferences.py"
WIN_RATES = "pipeline/win_rates.py"
JUDGE = "pipeline/llm_judge.py"

WINNING = (
    Mutant(
        "win rates: the lower value wins",
        PREFERENCES,
        "np.sign(ours - theirs)",
        "np.sign(theirs - ours)",
        "The worse stage is said to be better.",
        ("test_preferences.py", "evaluation/test_contests.py"),
    ),
    Mutant(
        "win rates: equal answers by score",
        PREFERENCES,
        "return 0.5 if same else 0.5 + 0.5",
        "return 0.5 + 0.5",
        "A reward model's rounding makes winners of equal answers.",
        ("test_preferences.py", "evaluation/test_contests.py"),
    ),
    Mutant(
        "win rates: a pair turned without its preference",
        PREFERENCES,
        "preference=1.0 - self.preference,",
        "preference=self.preference,",
        "Wins become losses where the stages were compared the other way round.",
        ("test_win_rates.py", "test_preferences.py"),
    ),
    Mutant(
        "length control: lengths of the wrong side",
        PREFERENCES,
        "longer=-self.longer,",
        "longer=self.longer,",
        "A judge who likes length is taken for one who does not.",
        ("test_preferences.py",),
    ),
    Mutant(
        "length control: lengths as they are",
        PREFERENCES,
        "feature = np.tanh(differences / spread)",
        "feature = differences / spread",
        "One very long answer decides the fit.",
        ("test_preferences.py",),
    ),
    Mutant(
        "length control: equal answers fitted",
        PREFERENCES,
        "differ = np.array([not one.same for one in comparisons])",
        "differ = np.array([True for one in comparisons])",
        "Ties of equal answers pull the rate at equal lengths to a half.",
        ("test_preferences.py",),
    ),
    Mutant(
        "strengths: comparisons resampled one by one",
        BOOTSTRAP,
        "numbers.setdefault(cluster, len(numbers)) for cluster in clusters",
        "numbers.setdefault(str(i), len(numbers)) for i, cluster in enumerate(clusters)",
        "Ten judgments of one prompt count as ten prompts: intervals are too narrow.",
        ("test_preferences.py",),
    ),
    Mutant(
        "strengths: sides swapped",
        PREFERENCES,
        "design[row, place[stage]], design[row, place[against]] = 1.0, -1.0",
        "design[row, place[stage]], design[row, place[against]] = -1.0, 1.0",
        "The weakest stage comes out strongest.",
        ("test_preferences.py",),
    ),
    Mutant(
        "judge: shown in one order",
        JUDGE,
        "yield Question(pair.prompt, pair.theirs, pair.ours)",
        "yield Question(pair.prompt, pair.ours, pair.theirs)",
        "A judge's bias to a place goes unseen.",
        ("test_llm_judge.py",),
    ),
    Mutant(
        "judge: one order decides",
        JUDGE,
        "first[0] if sum(first) == 1.0 else 0.5",
        "first[0]",
        "What is shown first wins.",
        ("test_llm_judge.py",),
    ),
    Mutant(
        "judge: any mark is a verdict",
        JUDGE,
        "if len(found) == 1 else None",
        "if found else None",
        "A reply that weighs both answers is read as one of them.",
        ("test_llm_judge.py",),
    ),
    Mutant(
        "judge: the template is not in the key",
        JUDGE,
        "parts = [section.model, self._template,",
        "parts = [section.model,",
        "Another question gets the old question's verdict.",
        ("test_llm_judge.py",),
    ),
    Mutant(
        "judge: the key in an error",
        JUDGE,
        'return text.replace(self._key, "***") if self._key else text',
        "return text",
        "A server that repeats the key puts it into logs and files.",
        ("test_llm_judge.py",),
    ),
    Mutant(
        "win rates: disagreement counted upside down",
        WIN_RATES,
        "a + b != 1.0",
        "a + b == 1.0",
        "A judge that contradicts itself looks steady.",
        ("test_win_rates.py",),
    ),
)
