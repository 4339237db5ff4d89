"""Gather all mutants."""

from __future__ import annotations

from tests.mutants.arithmetic import ARITHMETIC
from tests.mutants.reporting import REPORTING
from tests.mutants.rollouts import ROLLOUTS
from tests.mutants.states import STATES
from tests.mutants.supervised import SUPERVISED
from tests.mutants.updates import UPDATES
from tests.mutants.winning import WINNING

MUTANTS = (*ARITHMETIC, *ROLLOUTS, *UPDATES, *STATES, *SUPERVISED, *REPORTING, *WINNING)
