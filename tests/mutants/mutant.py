"""Say what a mutant is: one deliberate mistake in the code, and the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TESTS = "tests/pipeline"
"""Where the tests of the mutants' modules are."""


class DoesNotApplyError(Exception):
    """The code is no longer what a mutant changes."""


@dataclass(frozen=True)
class Mutant:
    """One mistake that a test must notice.

    Attributes:
        name: says the mistake in a few words; unique.
        module: file that it is in, from the root.
        code: the right code, found there exactly once.
        instead: the wrong code.
        why: what would go wrong in a training.
        tests: the smallest tests that must fail, as pytest names them from ``TESTS``.
    """

    name: str
    module: str
    code: str
    instead: str
    why: str
    tests: tuple[str, ...]

    @property
    def test_ids(self) -> list[str]:
        """Return the tests as pytest takes them from the root."""
        return [f"{TESTS}/{test}" for test in self.tests]

    def mutate(self, source: str) -> str:
        """Return the source with the mistake in it.

        Raises:
            DoesNotApplyError: if the code is not there exactly once, or the result is no Python.
        """
        if (found := source.count(self.code)) != 1:
            raise DoesNotApplyError(f"{self.module} holds its code {found} times instead of once")
        mutated = source.replace(self.code, self.instead)
        try:
            compile(mutated, self.module, "exec")
        except SyntaxError as error:
            raise DoesNotApplyError(f"{self.module} would be no Python: {error.msg}") from error
        return mutated

    def apply(self, root: Path) -> None:
        """Put the mistake into the module of a copy of the project."""
        path = root / self.module
        path.write_text(self.mutate(path.read_text(encoding="utf-8")), encoding="utf-8")
