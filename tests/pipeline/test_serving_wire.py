from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.sampling import DecodingSection
from pipeline.records import Prompt
from pipeline.serving_messages import (
    Candidate,
    Distribution,
    DistributionRequest,
    Failed,
    Finished,
    GenerationRequest,
    LoadedModel,
    Loading,
    Notice,
    Queued,
    ServingSettings,
    Token,
)
from pipeline.serving_wire import KINDS, Cancel, Done, ListModels, Models, read_line, write_line

MESSAGES = Prompt.from_text("Hello\nMia \u2028 😀").messages
CANDIDATE = Candidate(3, " cat", 0.25, 1, None)
EXAMPLES = [
    ServingSettings(memory_bytes=5, threads=2, device="cpu"),
    GenerationRequest(
        "a", MESSAGES, DecodingSection(stop=["x"]), 3, 7, "base", "reward", "b", "c", "me"
    ),
    DistributionRequest("a", MESSAGES, (1, 2), 3, 4, None, "b", asker="me"),
    ListModels(),
    Cancel(),
    Queued(2),
    Loading("a", 10),
    Notice("no KL"),
    Token(0, 3, "\ud83d", -0.5, 1, 0.1, float("-inf"), 0.2),
    Finished(1, "text", "stop", 3, -1.0, 0.1, 0.2, None),
    Failed("why"),
    Distribution((CANDIDATE,), 0.5, CANDIDATE),
    Models((LoadedModel("a", "policy", 4, True, 0.0),)),
    Done(),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message):
    line = write_line(7, message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line.decode("ascii").splitlines()) == 1
    assert read_line(line) == (7, message)


def test_every_kind_of_message_is_tried():
    assert {type(message).__name__ for message in EXAMPLES} == set(KINDS)


def test_a_path_is_written_as_text():
    _, request = read_line(write_line(1, GenerationRequest(Path("a/b"), MESSAGES)))
    assert request.model == "a/b"
