from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from pipeline.config.ppo import PpoSection
from pipeline.config.presets import PRESETS
from pipeline.config.run import load_config, resolve
from pipeline.errors import ConfigError


def load(tmp_path: Path, ppo: str, *overrides: str, name: str = "ppo") -> PpoSection:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"run_dir: runs/x\nbase: b\nsft@ppo_init: {{epochs: 2}}\n{ppo}\n", encoding="utf-8"
    )
    return load_config(path, overrides).section(name, PpoSection)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_sets_its_fields_and_leaves_the_others(tmp_path, preset):
    made = load(tmp_path, f"ppo: {{preset: {preset}}}")
    assert made == dataclasses.replace(PpoSection(), preset=preset, **PRESETS[preset])


def test_instructgpt_is_the_default(tmp_path):
    assert load(tmp_path, "ppo: {preset: instructgpt}") == load(tmp_path, "ppo: {}") == PpoSection()


def test_n_plus_is_huang_et_als(tmp_path):
    made = load(tmp_path, "ppo: {preset: n_plus}")
    assert (made.iterations, made.minibatches, made.num_ppo_epochs) == (1953, 1, 4)
    assert (made.learning_rate, made.lr_schedule, made.kl_coef) == (3e-6, "linear", 0.05)
    assert (made.missing_eos_score, made.missing_eos_penalty) == (-1.0, None)
    assert made.max_grad_norm is None
    assert made.temperature == 0.7


def test_llama2_is_touvron_et_als(tmp_path):
    made = load(tmp_path, "ppo: {preset: llama2}")
    assert (made.iterations, made.minibatches, made.num_ppo_epochs) == (400, 8, 1)
    assert (made.learning_rate, made.kl_coef, made.weight_decay) == (1e-6, 0.01, 0.1)
    assert (made.score_scaling, made.ptx_coef, made.ema_decay) == ("batch", 0.0, None)


def test_what_the_yaml_gives_wins_even_null_and_the_default(tmp_path):
    given = "kl_coef: 0.02, missing_eos_score: null, missing_eos_penalty: 0.5"
    made = load(tmp_path, f"ppo: {{preset: n_plus, {given}}}", "ppo.temperature=1")
    assert (made.kl_coef, made.missing_eos_score, made.missing_eos_penalty) == (0.02, None, 0.5)
    assert made.temperature == 1.0
    assert made.num_ppo_epochs == 4


def test_a_variant_may_have_another_preset_and_keeps_what_its_stage_gives(tmp_path):
    text = "ppo: {preset: n_plus, kl_coef: 0.3}\nppo@llama: {preset: llama2}"
    made = load(tmp_path, text, name="ppo@llama")
    assert (made.preset, made.kl_coef, made.num_ppo_epochs) == ("llama2", 0.3, 1)
    assert load(tmp_path, text).num_ppo_epochs == 4


def test_the_resolved_configuration_shows_what_a_preset_sets_and_loads_again(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: runs/x\nbase: b\nsft@ppo_init: {epochs: 2}\nppo: {preset: n_plus}\n")
    config = load_config(path)
    dumped = yaml.safe_load(config.dump("ppo"))
    for name, value in PRESETS["n_plus"].items():
        assert dumped["ppo"][name] == value, name
    assert resolve(dumped).section("ppo", PpoSection) == config.section("ppo", PpoSection)


@pytest.mark.parametrize("name", ["n_pluss", "[n_plus]", "3"])
def test_an_unknown_preset_is_refused(tmp_path, name):
    with pytest.raises(
        ConfigError, match=r"ppo\.preset must be one of 'instructgpt', 'n_plus', 'll"
    ):
        load(tmp_path, f"ppo: {{preset: {name}}}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kl_target: 0", r"ppo\.kl_target must be positive, or null, got 0\.0"),
        ("{kl_target: 6, kl_coef: 0}", r"ppo\.kl_coef must be positive with kl_target, got 0\.0"),
        ("{kl_target: 6, kl_horizon: 100}", r"ppo\.kl_horizon must be at least ppo\.rollout_batch"),
        ("stop_approxkl: 0.1", r"ppo\.stop_approxkl must be null with num_ppo_epochs: 1"),
        ("missing_eos_score: -1", r"ppo\.missing_eos_penalty must be null with missing_eos_score"),
        ("eval_every: 5", r"ppo\.eval_prompts must list prompts with eval_every, got \[\]"),
        ("select: best_score", r"ppo\.eval_every must be positive with select, got 0"),
        ("patience: 2", r"ppo\.eval_every must be positive with patience, got 0"),
        ("score_clip: -5", r"ppo\.score_clip must be positive, or null"),
        ("importance_cap: 0", r"ppo\.importance_cap must be positive, or null"),
        ("entropy_coef: -0.1", r"ppo\.entropy_coef must be 0 or more"),
        ("lr_schedule: cosine", r"ppo\.lr_schedule must be one of 'constant', 'linear'"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, given, said):
    fields = given if given.startswith("{") else f"{{{given}}}"
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, f"ppo: {fields}")


def shown(value: object) -> str:
    """Write a value as the page does."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def test_the_page_shows_every_default_and_preset_as_it_is():
    page = Path(__file__).parents[3] / "docs/algorithm.md"
    rows = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[2] in PpoSection.__dataclass_fields__:
            rows[cells[2]] = tuple(cells[3:])
    assert rows.keys() >= {name for preset in PRESETS.values() for name in preset}
    for name, cells in rows.items():
        default = shown(getattr(PpoSection(), name))
        preset = [PRESETS[p] for p in ("n_plus", "llama2")]
        assert cells == (default, *(shown(p[name]) if name in p else "" for p in preset)), name
