"""A desk in this process, and requests of a policy with room for long answers."""

from __future__ import annotations

import time

from pipeline.config.sampling import DecodingSection
from pipeline.records import Prompt
from pipeline.serving_messages import (
    Failed,
    GenerationRequest,
    Queued,
    ServingSettings,
    Token,
)
from pipeline.serving_wire import Done, Models
from pipeline.serving_worker import Desk

MESSAGES = Prompt.from_text("Where does Tom live?").messages
LONG = DecodingSection(max_new_tokens=400, min_new_tokens=400)
"""What is still at work when others are answered; it is cancelled, and never finished."""
MIDDLE = DecodingSection(max_new_tokens=200, min_new_tokens=200)
SOME = DecodingSection(max_new_tokens=30, min_new_tokens=30)
SHORT = DecodingSection(max_new_tokens=4, min_new_tokens=4)


class Office:
    """A desk, and what it has said."""

    def __init__(self, **settings):
        self.said = []
        self.desk = Desk(
            ServingSettings(**{"device": "cpu", **settings}),
            lambda number, message: self.said.append((number, message)),
        )

    def about(self, number, kind=object):
        return [message for to, message in self.said if to == number and isinstance(message, kind)]

    def step_until(self, holds):
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, self.said
            self.desk.step()

    def answer(self, *numbers):
        ends = (Done, Failed, Models)
        self.step_until(lambda: all(self.about(number, ends) for number in numbers))


def ask_of(folder, decoding=SHORT, model=None, **fields):
    """Return a request of the policy in a folder, unless another is named."""
    return GenerationRequest(str(model or folder), MESSAGES, decoding, **fields)


def fill(office, ask, *numbers, decoding=LONG, **fields):
    """Put long requests to work, one after the other."""
    for number in numbers:
        office.desk.put(number, ask(decoding, seed=number, **fields))
        office.step_until(lambda number=number: office.about(number, Token))


def line_up(office, ask, *numbers, decoding=SHORT, **fields):
    """Put short requests in line, one after the other."""
    for number in numbers:
        office.desk.put(number, ask(decoding, seed=number, **fields))
        office.step_until(lambda number=number: office.about(number, Queued))
