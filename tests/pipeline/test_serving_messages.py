from __future__ import annotations

import pytest

from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import check
from pipeline.errors import ConfigError
from pipeline.records import Prompt
from pipeline.serving_messages import (
    DistributionRequest,
    GenerationRequest,
    ServingSettings,
    half_of_memory,
)

MESSAGES = Prompt.from_text("Hello Mia").messages


@pytest.mark.parametrize(
    ("decoding", "samples", "message"),
    [
        ({"temperature": -1.0}, 1, r"temperature must be 0 or more, got -1\.0\."),
        ({"max_new_tokens": 0}, 1, r"max_new_tokens must be 1 or more, got 0\."),
        ({"num_beams": 2, "temperature": 0.0}, 1, "num_beams must be 1 to watch an answer grow"),
        ({}, 0, r"samples must be 1 or more, got 0\."),
        ({"temperature": 0.0}, 2, "samples must be 1 at temperature 0, where all are alike"),
    ],
)
def test_what_cannot_be_streamed_is_refused(decoding, samples, message):
    request = GenerationRequest("ours", MESSAGES, DecodingSection(**decoding), samples)
    with pytest.raises(ConfigError, match=f"^{message}"):
        request.check()


@pytest.mark.parametrize("kind", [GenerationRequest, DistributionRequest])
def test_a_prompt_must_leave_the_word_to_the_assistant(kind):
    with pytest.raises(ConfigError, match=r"^prompt must end with a user's turn, got none\."):
        kind("ours", ()).check()
    with pytest.raises(ConfigError, match=r"^prompt must end .*, got the assistant's\."):
        kind("ours", (*MESSAGES, {"role": "assistant", "content": "Hi"})).check()


def test_a_distribution_has_a_token_at_least():
    DistributionRequest("ours", MESSAGES).check()
    with pytest.raises(ConfigError, match=r"^top must be 1 or more, got 0\."):
        DistributionRequest("ours", MESSAGES, top=0).check()


def test_what_can_be_streamed_is_not_refused():
    GenerationRequest("ours", MESSAGES).check()
    GenerationRequest("ours", MESSAGES, DecodingSection(temperature=0)).check()


@pytest.mark.parametrize("name", ["memory_bytes", "threads", "idle_seconds", "active"])
def test_settings_must_be_positive(name):
    check(ServingSettings(), "")
    with pytest.raises(ConfigError, match=f"^{name} must be positive, got 0"):
        check(ServingSettings(**{name: 0}), "")


def test_half_of_the_memory_is_some_of_it():
    assert 2**27 < half_of_memory() < 2**45
    assert ServingSettings().memory_bytes == half_of_memory()
