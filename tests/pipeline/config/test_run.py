from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from pipeline.config.ppo import PpoSection
from pipeline.config.run import SECTIONS, RunConfig, TopLevel, load_config, resolve, stage_of
from pipeline.config.schema import Section, field_docs, field_types
from pipeline.config.sft import SftSection
from pipeline.config.source import Source
from pipeline.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))

YAML = """
run_dir: runs/x
seed: 7
pretrain:
  tokens: 1000
  sources: [corpus.txt]
  model: {hidden_size: 64, num_heads: 4, num_kv_heads: 2}
sft: &sft
  data: [a.jsonl, {path: b.jsonl, limit: 5}]
  select_by: last
sft@ppo_init:
  epochs: 2
  pretrain_mix: 0.1
ppo:
  prompts: [prompts.jsonl]
  rollout_batch_size: 64
  minibatch_size: 16
ppo@no_ptx:
  ptx_coef: 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(YAML, encoding="utf-8")
    return file


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_sections() -> set[type[Section]]:
    """Return every section that a configuration can hold, however deep."""
    found: set[type[Section]] = set()
    open_ends: list[object] = [TopLevel, *SECTIONS.values()]
    while open_ends:
        hint = open_ends.pop()
        open_ends += typing.get_args(hint)
        if isinstance(hint, type) and issubclass(hint, Section) and hint not in found:
            found.add(hint)
            open_ends += field_types(hint).values()
    return found


@pytest.mark.parametrize("section", sorted(all_sections(), key=lambda kind: kind.__name__))
def test_every_field_of_every_section_says_what_it_means(section: type[Section]):
    docs = field_docs(section)
    for field in dataclasses.fields(section):
        assert docs.get(field.name, "").endswith("."), f"{section.__name__}.{field.name}"
        assert "\n" not in docs[field.name]


@pytest.mark.parametrize("section", sorted(all_sections(), key=lambda kind: kind.__name__))
def test_every_section_is_frozen_and_its_defaults_keep_its_rules(section: type[Section]):
    assert section.__dataclass_params__.frozen
    required = {
        field.name
        for field in dataclasses.fields(section)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    if not required:
        assert list(section().problems()) == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(config: Path):
    loaded = load_config(config)
    again = resolve(yaml.safe_load(loaded.dump()))
    assert (again.top, again.stages, again.line) == (loaded.top, loaded.stages, loaded.line)


def test_the_configuration_needs_no_torch():
    code = "import sys; import pipeline.config.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_variant_is_its_stage_with_departures(path: Path):
    config = load_config(path)
    base = config.section("sft", SftSection)
    variant = config.section("sft@ppo_init", SftSection)
    assert variant == dataclasses.replace(base, epochs=2.0, pretrain_mix=0.1)
    assert config.section("ppo@no_ptx", PpoSection).ptx_coef == 0
    assert config.section("ppo", PpoSection).ptx_coef == 27.8


def test_a_variant_merges_into_nested_sections_and_may_switch_them_off(path: Path):
    text = YAML + "sft@b: {lora: {rank: 4}}\nsft@c: {lora: null}\n"
    path.write_text(text.replace("select_by: last", "select_by: last\n  lora: {alpha: 8}"))
    config = load_config(path)
    lora = config.section("sft@b", SftSection).lora
    assert lora is not None
    assert (lora.rank, lora.alpha) == (4, 8)
    assert config.section("sft@c", SftSection).lora is None


def test_an_override_reaches_variants_unless_they_depart(path: Path):
    config = load_config(path, ["ppo.kl_coef=0.05", "ppo.ptx_coef=3"])
    assert config.section("ppo@no_ptx", PpoSection).kl_coef == 0.05
    assert config.section("ppo@no_ptx", PpoSection).ptx_coef == 0
    assert config.section("ppo", PpoSection).ptx_coef == 3


def test_overrides_reach_variants_nested_sections_list_elements_and_new_sections(path: Path):
    config = load_config(
        path,
        [
            "ppo@no_ptx.kl_coef=1e-3",
            "pretrain.model.num_layers=2",
            "sft.data.1.path=/elsewhere/c.jsonl",
            "report.title=2024: the year",
            "sft.trainer.optim=adamw_torch",
            "seed=3",
        ],
    )
    assert config.section("ppo@no_ptx", PpoSection).kl_coef == 1e-3
    assert config.stages["pretrain"].model.num_layers == 2
    assert config.section("sft", SftSection).data[1] == Source("/elsewhere/c.jsonl", limit=5)
    assert config.stages["report"].title == "2024: the year"
    assert config.stages["sft"].trainer == {"optim": "adamw_torch"}
    assert config.seed == 3


def test_an_override_does_not_reach_through_an_alias(path: Path):
    path.write_text(YAML.replace("sft@ppo_init:", "sft@twin: *sft\nsft@ppo_init:"))
    config = load_config(path, ["sft@twin.data.0=other.jsonl"])
    assert config.section("sft@twin", SftSection).data[0] == Source("other.jsonl")
    assert config.section("sft", SftSection).data[0] == Source("a.jsonl")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.klcoef=1", "ppo.klcoef is no known key. Did you mean 'kl_coef'?"),
        ("ppoo.kl_coef=1", "ppoo is no known key. Did you mean 'ppo'?"),
        ("ppo.kl_coef=abc", "ppo.kl_coef must be number, got 'abc'."),
        ("ppo.kl_coef", "Override 'ppo.kl_coef' must have the form key=value."),
        ("=3", "Override '=3' must have the form key=value."),
        ("seed.x=1", "seed holds no keys, so 'seed.x=1' cannot be set."),
        ("sft.data.7=x", "sft.data must be indexed by a number below 2, got '7'."),
        ("ppo.kl_coef=[", "override 'ppo.kl_coef=[':1: not valid YAML"),
        ("ppo.minibatch_size=24", "ppo.minibatch_size must divide ppo.rollout_batch_size (64)"),
        ("ppo@no_ptx.minibatch_size=24", "ppo@no_ptx.minibatch_size must divide"),
        ("pretrain.model.num_heads=0", "pretrain.model.num_heads must be 1 or more, got 0."),
        ("ppo.init=sft@ppo_int", "ppo.init must name a pretrain or sft stage of this run"),
        ("ppo.init=ppo@no_ptx", "ppo.init must name a pretrain or sft stage of this run"),
        ("ppo.reward=sft", "ppo.reward must name a reward stage of this run, got 'sft'."),
        ("sample.stages=[sfd]", "sample.stages must name a pretrain or sft or ppo stage"),
        ("sft.init=sft", "sft.init must lead to a base, got sft -> sft."),
        ("sft.init=sft@ppo_init", "sft.init must lead to a base"),
        ("pretrain.tokens=0", "pretrain.tokens must be positive when base is null, got 0."),
        ("ppo@a/b.kl_coef=1", "ppo@a/b is no known key."),
        ("run_dir=", "run_dir must name a folder, got ''."),
        ('run_dir="a\\0b"', "run_dir must name a folder, got 'a\\x00b'."),
        ("seed=-1", "seed must lie in [0, 2^32), got -1."),
        ("seed=4294967296", "seed must lie in [0, 2^32), got 4294967296."),
        ("sft.learning_rate=.inf", "sft.learning_rate must be number, got inf."),
        ("sft.evaluate_every=0", "sft.evaluate_every must be 1 or more, got 0."),
        ("evaluate.shots=[]", "evaluate.shots must be one number or more, 0 or more each, got []."),
        ("evaluate.shots=[1, 1]", "evaluate.shots must name each number once, got [1, 1]."),
        ("report.samples=-1", "report.samples must be 0 or more, got -1."),
    ],
)
def test_a_wrong_override_is_one_line(path: Path, override: str, message: str):
    assert refusal(path, override).startswith(message)


def test_advice_for_a_batch_names_the_divisors_around_it(path: Path):
    assert refusal(path, "ppo.minibatch_size=24").endswith("got 24. Use 16 or 32.")


def test_a_duplicate_section_is_refused(path: Path):
    path.write_text(YAML + "ppo: {}\n", encoding="utf-8")
    assert re.search(r"run\.yaml:\d+: key 'ppo' must appear once", refusal(path))


def test_a_run_dir_may_lie_in_the_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/mia")
    assert load_config(path, ["run_dir=~/runs/x"]).run_dir == Path("/home/mia/runs/x")


def test_a_missing_run_dir_is_asked_for(path: Path):
    path.write_text(YAML.replace("run_dir: runs/x", ""), encoding="utf-8")
    assert refusal(path).startswith("run_dir must be given")


def test_a_stage_that_is_not_there_is_refused_with_the_nearest(path: Path):
    with pytest.raises(ConfigError, match=r"no stage 'ppo@no_ptxx'\. Did you mean 'ppo@no_ptx'"):
        load_config(path).section("ppo@no_ptxx", PpoSection)


def test_a_stage_of_another_kind_is_refused(path: Path):
    with pytest.raises(ConfigError, match="Stage 'sft' is a sft, where a PpoSection"):
        load_config(path).section("sft", PpoSection)


def test_the_line_is_what_is_named_and_what_that_needs(path: Path):
    assert load_config(path).line == [
        "pretrain",
        "sft",
        "sft@ppo_init",
        "reward",
        "ppo",
        "ppo@no_ptx",
        "report",
    ]


def test_a_run_that_names_nothing_is_its_base_and_a_report():
    assert resolve({"run_dir": "x", "base": "gpt"}).line == ["pretrain", "report"]


def test_the_dump_loads_as_the_same_line(path: Path):
    config = load_config(path)
    again: RunConfig = resolve(yaml.safe_load(config.dump()))
    assert again.stages == config.stages
    assert again.line == config.line


def test_the_dump_of_a_stage_outside_the_line_holds_its_section(path: Path):
    assert "label" not in yaml.safe_load(load_config(path).dump())
    assert yaml.safe_load(load_config(path).dump("label"))["label"]["overlap"] == 1


def test_with_stage_replaces_fields_of_one_section(path: Path):
    config = load_config(path).with_stage("ppo", kl_coef=1.0)
    assert config.section("ppo", PpoSection).kl_coef == 1.0
    assert config.section("ppo@no_ptx", PpoSection).kl_coef == 0.02


def test_a_variants_stage_is_what_stands_before_the_at():
    assert stage_of("ppo@no_ptx") == "ppo" == stage_of("ppo")
