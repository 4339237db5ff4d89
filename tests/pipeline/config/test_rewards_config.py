from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config.ppo import PpoSection
from pipeline.config.rewards import RewardSource
from pipeline.config.run import RunConfig, resolve
from pipeline.errors import ConfigError

FUNCTION = {"function": "my_package.rewards:brevity"}


def make_config(**ppo: object) -> RunConfig:
    tree = {"run_dir": "x", "base": "b", "pretrain": {"tokens": 0}, "reward@b": {}}
    return resolve({**tree, "ppo": {"init": "sft", **ppo}})


def test_the_page_on_rewards_shows_a_list_that_loads():
    page = Path(__file__).parents[3].joinpath("docs/rewards.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    section = make_config(**shown["ppo"]).section("ppo", PpoSection)
    assert [(source.kind, source.label) for source in section.rewards] == [
        ("stage", "reward"),
        ("model", "helpful"),
        ("function", "brief"),
    ]


def test_without_a_list_the_one_reward_is_the_stage():
    config = make_config(reward="reward@b")
    section = config.section("ppo", PpoSection)
    assert section.reward_sources == [RewardSource(stage="reward@b")]
    assert section.reward_paths("ppo@x") == [("ppo@x.reward", RewardSource(stage="reward@b"))]
    assert "reward@b" in config.line


def test_a_list_takes_the_place_of_the_stage():
    section = make_config(rewards=[FUNCTION, {"stage": "reward@b", "weight": -1}]).stages["ppo"]
    assert isinstance(section, PpoSection)
    assert section.reward_stages == ["reward@b"]
    assert [path for path, _ in section.reward_paths("ppo")] == [
        "ppo.rewards[0].function",
        "ppo.rewards[1].stage",
    ]


def test_the_line_has_the_reward_stages_that_are_listed():
    def needs(**ppo: object) -> set[str]:
        tree = {"run_dir": "x", "base": "b", "pretrain": {"tokens": 0}}
        return set(resolve({**tree, "ppo": {"init": "sft", **ppo}}).line)

    assert "reward" in needs()
    assert "reward" in needs(rewards=[{"stage": "reward"}, FUNCTION])
    assert "reward" not in needs(rewards=[FUNCTION])


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ({"stage": "reward@b"}, "reward@b"),
        ({"model": "runs/other/reward@b/model"}, "reward@b"),
        ({"model": "runs/other/reward/model/"}, "reward"),
        ({"model": "/judges/My judge"}, "My-judge"),
        ({"model": "Somebody/Judge-v0.2"}, "Judge-v0.2"),
        ({"model": "model"}, "model"),
        (FUNCTION, "brevity"),
        ({**FUNCTION, "name": "short"}, "short"),
    ],
)
def test_a_reward_is_called_after_what_it_is(source, label):
    assert RewardSource(**source).label == label


@pytest.mark.parametrize(
    ("ppo", "message"),
    [
        ({"rewards": [{}]}, "ppo.rewards[0].stage must be given, or model or function, got None."),
        (
            {"rewards": [{"stage": "reward", **FUNCTION}]},
            "ppo.rewards[0].function must be left out where stage is given, got 'my_package",
        ),
        ({"rewards": [{"stage": "rewrd"}]}, "ppo.rewards[0].stage must name a reward stage"),
        ({"rewards": [{"stage": "sft"}]}, "ppo.rewards[0].stage must name a reward stage"),
        ({"rewards": [{"model": " "}]}, "ppo.rewards[0].model must name a folder or a model"),
        (
            {"rewards": [{"function": "my_package.rewards"}]},
            "ppo.rewards[0].function must have the form module:name, got 'my_package.rewards'.",
        ),
        ({"rewards": [{"function": "a b:c"}]}, "ppo.rewards[0].function must have the form"),
        ({"rewards": [{"function": "a:b:c"}]}, "ppo.rewards[0].function must have the form"),
        (
            {"rewards": [{**FUNCTION, "retokenize": True}]},
            "ppo.rewards[0].retokenize must be false for a function, got True.",
        ),
        (
            {"rewards": [{**FUNCTION, "weight": float("inf")}]},
            "ppo.rewards[0].weight must be number, got inf.",
        ),
        (
            {"rewards": [{**FUNCTION, "name": "a/b"}]},
            "ppo.rewards[0].name must consist of letters, digits and . _ - @, got 'a/b'.",
        ),
        (
            {"rewards": [FUNCTION, {"stage": "reward", "name": "brevity"}]},
            "ppo.rewards[1].name must keep reward/brevity apart from the other rewards' keys",
        ),
        (
            {"rewards": [FUNCTION, {"stage": "reward", "name": "brevity_std"}]},
            "ppo.rewards[1].name must keep reward/brevity_std apart",
        ),
        (
            {"rewards": [{**FUNCTION, "weight": 0}]},
            "ppo.rewards[0].weight must not be 0 where all others are, got 0.0.",
        ),
        (
            {"reward": "reward@b", "rewards": [FUNCTION]},
            "ppo.reward must be left out where ppo.rewards is given, got 'reward@b'.",
        ),
        ({"rewards": [{"funtion": "a:b"}]}, "ppo.rewards[0].funtion is no known key."),
        ({"rewards": ["reward"]}, "ppo.rewards[0] must be a mapping, got 'reward'."),
        ({"rewards": FUNCTION}, "ppo.rewards must be list of mapping"),
    ],
)
def test_a_wrong_list_of_rewards_is_one_line(ppo, message):
    with pytest.raises(ConfigError) as caught:
        make_config(**ppo)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
