"""The runner on a project of one function; and the real table, which is not run here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, report
from tests.mutants.mutant import DoesNotApplyError, Mutant
from tests.mutants.runner import BaselineError, Runner
from tests.mutants.table import MUTANTS

MODULE = "def double(x):\n    y = x + x\n    return y\n\n\ndef unseen():\n    return 1\n"
TEST = """
from pipeline.thing import double


def test_double():
    assert double(3) == 6


def test_nothing():
    assert double(0) == 0
"""
SIGN = Mutant("sign", "pipeline/thing.py", "x + x", "x - x", "It is 0.", ("test_thing.py",))


@pytest.fixture
def runner(tmp_path) -> Runner:
    root = tmp_path / "project"
    files = {
        "pipeline/__init__.py": "",
        "pipeline/thing.py": MODULE,
        "tests/pipeline/test_thing.py": TEST,
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return Runner(root, libraries=())


def changed(**fields: object) -> Mutant:
    return dataclasses.replace(SIGN, **fields)


def test_a_mutant_that_a_test_notices_is_killed_and_the_project_is_left_alone(runner):
    outcome = runner.judge(SIGN)
    assert (outcome.verdict, outcome.detail) == ("killed", "test_double")
    kept = {path.name for path in runner.root.rglob("*") if path.is_file()}
    assert kept == {"__init__.py", "thing.py", "test_thing.py", "pyproject.toml"}
    assert (runner.root / "pipeline/thing.py").read_text(encoding="utf-8") == MODULE


@pytest.mark.parametrize(
    "mutant",
    [
        changed(code="return 1", instead="return 2"),  # nothing tests it
        changed(tests=("test_thing.py::test_nothing",)),  # -0 is 0
    ],
)
def test_a_mutant_that_no_test_notices_has_survived(runner, mutant):
    outcome = runner.judge(mutant)
    assert (outcome.verdict, outcome.detail) == ("survived", "It is 0.")


@pytest.mark.parametrize(
    ("code", "instead", "said"),
    [
        ("x * x", "x", "holds its code 0 times instead of once"),
        ("def", "def", "holds its code 2 times instead of once"),
        ("x + x", "x +", "would be no Python"),
    ],
)
def test_a_mutant_whose_code_is_gone_does_not_apply(runner, code, instead, said):
    outcome = runner.judge(changed(code=code, instead=instead))
    assert outcome.verdict == "does not apply"
    assert said in outcome.detail


@pytest.mark.parametrize(
    "mutant",
    [
        changed(tests=("test_thing.py::test_that_was_renamed",)),
        changed(code="def double", instead="import nothing_of_that_name\n\n\ndef double"),
    ],
)
def test_tests_that_cannot_run_kill_nothing(runner, mutant):
    assert runner.judge(mutant).verdict == "broken"


def test_the_tests_must_pass_without_a_mutant(runner):
    runner.check_baseline([SIGN])
    (runner.root / "pipeline/thing.py").write_text(MODULE.replace("x + x", "x"), encoding="utf-8")
    with pytest.raises(BaselineError, match="test_double"):
        runner.check_baseline([SIGN])


def test_the_table_is_printed_in_order_and_one_that_lives_is_an_error(runner, capsys):
    alive = changed(name="unseen", code="return 1", instead="return 2")
    assert report(runner, [SIGN], jobs=1) == 0
    assert report(runner, [alive, SIGN, changed(name="gone", code="none")], jobs=2) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in (lines[0], *lines[2:5])] == [
        *(["sign", "killed"], ["unseen", "survived"]),
        *(["sign", "killed"], ["gone", "does"]),
    ]
    assert lines[1].startswith("1 of 1 mutants killed")
    assert lines[5].startswith("1 of 3 mutants killed")


def test_every_mutant_has_a_name_of_its_own():
    assert [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_applies_and_its_tests_are_there(mutant):
    source = (ROOT / mutant.module).read_text(encoding="utf-8")
    try:
        assert mutant.mutate(source) != source
    except DoesNotApplyError as error:
        pytest.fail(f"{error}: bring the mutant up to date")
    for test in mutant.test_ids:
        path, _, name = test.partition("::")
        assert f"def {name.split('[')[0]}" in Path(ROOT / path).read_text(encoding="utf-8")
