from __future__ import annotations

import unicodedata

import pytest

from pipeline.errors import StoreError
from pipeline.store.passwords import (
    check_password,
    hash_password,
    matches,
    one_time_password,
)


def test_a_stored_password_is_salted_and_names_its_parameters() -> None:
    one, two = hash_password("correct horse battery"), hash_password("correct horse battery")
    assert one != two
    assert one.startswith("scrypt$32768$8$1$")
    assert matches("correct horse battery", one)
    assert matches("correct horse battery", two)
    assert not matches("correct horse batterY", one)


def test_a_password_of_other_parameters_still_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as cheaper:
        cheaper.setattr("pipeline.store.passwords.COST", 2**10)
        old = hash_password("correct horse battery")
    assert old.startswith("scrypt$1024$")
    assert matches("correct horse battery", old)


def test_nobodys_password_matches_nothing_after_the_same_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs: list[int] = []

    def derive(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
        del password, salt
        costs.append(cost * block * parallel)
        return b""

    stored = hash_password("correct horse battery")
    monkeypatch.setattr("pipeline.store.passwords._derive", derive)
    assert not matches("correct horse battery", stored)
    assert not matches("correct horse battery", None)
    assert costs[0] == costs[1] == 2**15 * 8


@pytest.mark.parametrize("password", ["grüße an alle", "パスワードを変える今", "a" * 100 + "🙂xyz"])
def test_the_same_password_composed_otherwise_is_the_same(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.passwords.COST", 2**4)
    assert matches(unicodedata.normalize("NFD", password), hash_password(password))


def test_one_time_passwords_differ_and_keep_the_rules() -> None:
    made = {one_time_password() for _ in range(100)}
    assert len(made) == 100
    for password in made:
        check_password(password, "ada")
        assert not set(password) & set("01oil")


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("short", "must have 12 to 200 characters, got 5"),
        ("x" * 201, "must have 12 to 200 characters, got 201"),
        ("abcabcabcabc", "neither the name nor a repeated"),
        ("Ada.Lovelace.1", "neither the name nor"),
    ],
)
def test_a_bad_password_is_one_line_that_does_not_repeat_it(password: str, rule: str) -> None:
    with pytest.raises(StoreError, match=rule) as caught:
        check_password(password, "ada.lovelace.1")
    assert password not in str(caught.value)
    assert "\n" not in str(caught.value)
