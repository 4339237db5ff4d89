from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from stages.cli import main

HERE = "192.0.2.1"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords at a thousandth of the cost."""
    monkeypatch.setattr("pipeline.store.passwords.COST", 2**5)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\nbase: a-model\n", encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], action: str, config: Path, *more: str) -> str:
    assert main(["user", action, str(config), *more]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refusal(capsys: pytest.CaptureFixture[str], action: str, config: Path, *more: str) -> str:
    assert main(["user", action, str(config), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("steerline: ")


def open_accounts(config: Path) -> tuple[LabelStore, Accounts]:
    store = LabelStore.open(config.parent / "run" / "labels.db", create=False)
    return store, Accounts(store)


def test_an_account_is_added_with_a_password_that_works_once(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(capsys, "add", config, "ada", "--role", "lead", "--group", "held_out")
    (password,) = re.findall(r"signs in with (\S+) once", told)
    store, accounts = open_accounts(config)
    with store:
        signed_in = accounts.sign_in("ada", password, HERE)
    assert signed_in.must_change
    assert (signed_in.account.role, signed_in.account.group) == ("lead", "held_out")
    again = run(capsys, "reset", config, "ada")
    assert password not in again
    assert "signs in with" in again


def test_a_labeler_may_begin_with_the_screening(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "add", config, "ada")
    run(capsys, "add", config, "bob", "--screening")
    store, accounts = open_accounts(config)
    with store:
        assert [(item.role, item.admitted) for item in accounts.list()] == [
            ("labeler", True),
            ("labeler", False),
        ]


def test_a_link_invites_one_person(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "add", config, "ada", "--role", "lead")
    url = "https://label.example.org/"
    told = run(capsys, "invite", config, "--public-url", url, "--hours", "24", "--screening")
    (token,) = re.findall(r"^https://label\.example\.org/invite/(\S+)$", told, re.MULTILINE)
    assert "one labeler account and 24 hours" in told
    store, accounts = open_accounts(config)
    with store:
        made = accounts.accept(token, "bob", "correct horse battery", HERE).account
    assert (made.name, made.role, made.admitted) == ("bob", "labeler", False)


def test_the_list_shows_who_may_do_what(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "add", config, "ada", "--role", "lead")
    run(capsys, "add", config, "bob", "--screening")
    assert run(capsys, "disable", config, "bob") == "bob can no longer sign in.\n"
    told = run(capsys, "list", config)
    rows = {
        cells[1]: cells[2:5]
        for line in told.splitlines()
        if len(cells := [cell.strip() for cell in line.split("│")]) > 4
    }
    assert "2 accounts" in told
    assert rows["ada"] == ["lead", "train", "has not chosen a password"]
    assert rows["bob"] == ["labeler", "train", "disabled"]
    assert run(capsys, "enable", config, "bob") == "bob can sign in again.\n"
    assert "no password, screening" not in told


def test_the_last_lead_stays(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "add", config, "ada", "--role", "lead")
    run(capsys, "add", config, "bob")
    for action in ("disable", "role"):
        assert "The last lead must stay" in refusal(capsys, action, config, "ada")
    assert run(capsys, "role", config, "bob", "--role", "lead") == "bob is a lead now.\n"
    assert run(capsys, "role", config, "ada") == "ada is a labeler now.\n"


@pytest.mark.parametrize(
    ("action", "words", "message"),
    [
        ("add", [], "'steerline user add' must have one NAME, got []."),
        ("add", ["a", "b"], "'steerline user add' must have one NAME, got ['a', 'b']."),
        ("list", ["a"], "'steerline user list' must have no NAME, got ['a']."),
        ("drop", ["a"], "argument action: invalid choice: 'drop'"),
        ("add", ["simulated-1"], "labeler.name must begin with 'simulated-'"),
        ("add", ["ada"], "Account 'ada' must be new"),
        ("disable", ["eve"], "No account 'eve' in the label store."),
        ("add", ["b", "--role", "boss"], "argument --role: invalid choice: 'boss'"),
        ("invite", ["--hours", "0"], "invitation.hours must be more than 0"),
        ("list", ["seed=x"], "seed must be integer, got 'x'."),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    action: str, words: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "add", config, "ada")
    assert refusal(capsys, action, config, *words).startswith(message)
    assert "1 accounts" in run(capsys, "list", config)


@pytest.mark.parametrize("action", ["list", "disable", "enable", "reset", "role", "invite"])
def test_only_the_first_account_makes_a_store(
    action: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [] if action in ("list", "invite") else ["ada"]
    assert refusal(capsys, action, config, *words).startswith("No label store in ")
    assert not (config.parent / "run" / "labels.db").exists()


def test_the_store_may_be_named_on_the_command_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"label.store=sqlite:///{tmp_path}/other.db"
    run(capsys, "add", config, "ada", other)
    assert "ada" in run(capsys, "list", config, other)
    assert (tmp_path / "other.db").is_file()
