"""Say what went wrong in words a user can act on.

Every mistake of the user's (configuration, data, a folder in the wrong state) derives from
``SteerlineError``: the command line prints its one line on stderr and exits with 2 (3 for a
``RegressionError``, which is no mistake of the input's). Anything else is a fault of ours and keeps
its traceback.

The form of a message is ``<where> must <rule>, got <value!r>. <What to do>.``
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SteerlineError(Exception):
    """Report a mistake of the user's in one line; ends a stage with exit code 2."""


class ConfigError(SteerlineError):
    """Report a configuration that is unknown, ill-typed or contradictory."""


class DataError(SteerlineError):
    """Report a data file that is missing, malformed or unusable."""

    @classmethod
    def at(cls, path: Path | str, line: int, what: str) -> DataError:
        """Name the file and the 1-based line, as ``data/prefs.jsonl:17: <what>``."""
        return cls(f"{path}:{line}: {what}")


class RunError(SteerlineError):
    """Report a run folder in a state that the command cannot go on from."""


class ModelError(SteerlineError):
    """Report weights or a tokenizer that cannot or must not be loaded."""


class EngineError(SteerlineError):
    """Report a rollout engine that is out of reach, set up wrongly, or answers with no number."""


class RewardError(SteerlineError):
    """Report a reward that fails, or gives something else than one finite number a completion."""


class JudgeError(SteerlineError):
    """Report a judging language model that is out of reach, or gives no verdict."""


class DivergedError(SteerlineError):
    """Report a training whose numbers are no longer finite."""


class RegressionError(SteerlineError):
    """Report a model that lost more than the run allows; its figures stay. Exit code 3."""


class StoreError(SteerlineError):
    """Report a label store that cannot be opened, or a judgment that it refuses."""


class LeaseLostError(StoreError):
    """Report a task that is no longer in the labeler's hands: others have filled its places."""


class ShapeError(ValueError):
    """Report tensors whose shapes differ: a fault of the calling code, not of the user."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest valid name, or a list of all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Valid names: {', '.join(names)}."
