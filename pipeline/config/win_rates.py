"""Configure win rates: stage against stage, by every judge that there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.config.schema import Problem, Section

_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class JudgeSection(Section):
    """Configure ``evaluate.win_rates.judge``: a language model that compares two answers."""

    url: str
    """Base of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str
    """Name that the server knows the model by."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key; null sends none."""
    template: str | None = None
    """Text file with {prompt}, {first} and {second}; null takes the project's own."""
    temperature: float = 0.0
    """Temperature that the model is asked to judge at."""
    max_tokens: int = 16
    """Tokens of a reply; a template that asks for reasons needs more."""
    limit: int | None = None
    """Prompts to ask about, evenly spaced through the list; null takes all."""
    concurrency: int = 4
    """Requests under way together."""
    timeout: float = 60.0
    """Seconds that the server may be silent."""
    retries: int = 5
    """Further attempts at a request that failed, after 1, 2, 4, ... seconds."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if not is_plain_url(self.url):
            rule = "be an http or https address without user, password, query or fragment"
            yield Problem("url", rule, "Write http://localhost:8000/v1; name keys in api_key_env.")
        if not self.model.strip():
            yield Problem("model", "name a model", "Write what the server calls it.")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            rule = "name an environment variable"
            yield Problem("api_key_env", rule, "Write its name, and keep the key out of the file.")
        yield from self.below(0, "temperature", "retries")
        yield from self.below(1, "max_tokens", "concurrency")
        yield from self.not_positive("timeout")
        if self.limit is not None and self.limit < 1:
            yield Problem("limit", "be 1 or more, or null", "Leave it out for all prompts.")


@dataclass(frozen=True)
class WinRatesSection(Section):
    """Configure ``evaluate.win_rates``: whose answers to evaluate.prompts are preferred."""

    stages: list[str] = field(default_factory=list)
    """Stages that are compared; empty takes every one that is evaluated."""
    against: str | None = None
    """Compare each stage with this one alone; null compares every pair."""
    reward: str | None = None
    """Stage whose reward model judges; null takes the first that is complete, if one is."""
    judge: JudgeSection | None = None
    """Ask a language model as well; null asks none."""
    checkpoints: bool = False
    """Answer and judge with the checkpoints on disk of ``ppo`` stages too, for the chart of KL."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if len(self.stages) == 1:
            yield Problem("stages", "name two stages or more, or none", "Leave it out for all.")
        if len(set(self.stages)) < len(self.stages):
            yield Problem("stages", "name each stage once", "Remove the repetition.")
        if self.against is not None and self.stages and self.against not in self.stages:
            yield Problem("against", "be one of the stages", "Add it to stages.")


def is_plain_url(url: str) -> bool:
    """Tell whether a URL is http or https, with a host, and carries no secret and no query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(host) and plain and not re.search(r"\s", url)
