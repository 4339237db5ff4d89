from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.evaluate import EvaluateSection
from pipeline.config.run import RunConfig, resolve
from pipeline.config.win_rates import is_plain_url
from pipeline.errors import ConfigError

JUDGE = {"url": "http://localhost:8000/v1", "model": "m"}


def make(asked: object, **evaluate: Any) -> RunConfig:
    return resolve(
        {
            "run_dir": "runs/x",
            "pretrain": {"tokens": 10, "sources": ["tiny:facts"]},
            "ppo": {"prompts": ["tiny:prompts"], "init": "sft"},
            "ppo@other": {"init": "sft"},
            "evaluate": {"prompts": ["tiny:prompts"], "win_rates": asked, **evaluate},
        }
    )


def section(config: RunConfig) -> Any:
    return config.section("evaluate", EvaluateSection).win_rates


def test_nothing_is_compared_unless_asked_and_an_empty_mapping_asks_for_all():
    assert section(make(None)) is None
    asked = section(make({}))
    assert (asked.stages, asked.against, asked.reward, asked.judge) == ([], None, None, None)


def test_stages_that_are_named_belong_to_the_line():
    line = make({"stages": ["sft", "ppo@other"], "against": "sft"}).line
    assert {"sft", "ppo@other"} <= set(line)
    assert "reward" in make({"reward": "reward"}).line


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"stages": ["sft", "pop"]}, r"evaluate\.win_rates\.stages\[1\] must name .*'ppo'"),
        ({"stages": ["sft"]}, r"win_rates\.stages must name two stages or more"),
        ({"stages": ["sft", "sft"]}, r"win_rates\.stages must name each stage once"),
        ({"stages": ["sft", "ppo"], "against": "pretrain"}, r"against must be one of the stages"),
        ({"against": "label"}, r"win_rates\.against must name a pretrain or sft or ppo stage"),
        ({"reward": "sft"}, r"win_rates\.reward must name a reward stage"),
        ({"judge": {"url": "http://x/v1"}}, r"win_rates\.judge\.model must be given"),
        ({"judge": {**JUDGE, "url": "localhost:8000"}}, r"judge\.url must be an http or https"),
        ({"judge": {**JUDGE, "url": "https://me:pw@x/v1"}}, r"judge\.url must be .*without user"),
        ({"judge": {**JUDGE, "model": " "}}, r"judge\.model must name a model"),
        ({"judge": {**JUDGE, "api_key_env": "sk-123"}}, r"api_key_env must name an environment"),
        ({"judge": {**JUDGE, "concurrency": 0}}, r"judge\.concurrency must be 1 or more"),
        ({"judge": {**JUDGE, "timeout": 0}}, r"judge\.timeout must be positive"),
        ({"judge": {**JUDGE, "retries": -1}}, r"judge\.retries must be 0 or more"),
        ({"judge": {**JUDGE, "limit": 0}}, r"judge\.limit must be 1 or more"),
        ({"judges": []}, r"win_rates\.judges is no known key.*'judge'"),
    ],
)
def test_broken_rules_are_said_in_one_line(asked: object, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        make(asked)
    assert "\n" not in str(caught.value)


def test_win_rates_need_prompts():
    with pytest.raises(ConfigError, match=r"evaluate\.prompts must be given with win_rates"):
        make({}, prompts=[])


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://localhost:8000/v1", True),
        ("https://api.example.org", True),
        ("http://[::1]:80/v1", True),
        ("http://x:port/v1", False),
        ("http://[::1/v1", False),
        ("http:///v1", False),
        ("ftp://x/v1", False),
        ("https://key@x/v1", False),
        ("https://x/v1?key=1", False),
        ("https://x/v1#a", False),
        (" http://x", False),
        ("http://a b/", False),
        ("", False),
    ],
)
def test_a_plain_url_carries_no_secret(url: str, plain: bool):
    assert is_plain_url(url) is plain
