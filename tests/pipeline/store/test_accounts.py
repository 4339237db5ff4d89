from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from pipeline.errors import StoreError
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts, SignInError
from pipeline.store.schema_app import AccountRow, InvitationRow, SessionRow, SignInAttemptRow

HERE, THERE = "192.0.2.7", "198.51.100.9"
GOOD = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash at a thousandth of the cost; the cost itself is test_passwords.py's."""
    monkeypatch.setattr("pipeline.store.passwords.COST", 2**5)


@pytest.fixture
def accounts(store: LabelStore) -> Accounts:
    return Accounts(store)


@pytest.fixture
def ada(accounts: Accounts) -> Accounts:
    """Return the accounts with a lead, Ada, whose password is GOOD."""
    set_up(accounts, "ada", "lead")
    return accounts


def set_up(accounts: Accounts, name: str, role: str = "labeler") -> str:
    """Add an account, give it the password GOOD, and return the token of its session."""
    once = accounts.add(name, role)
    signed_in = accounts.sign_in(name, once, HERE)
    return accounts.change_password(signed_in.account.id, once, GOOD).token


def refuse(accounts: Accounts, name: str, password: str, address: str = HERE) -> SignInError:
    with pytest.raises(SignInError) as caught:
        accounts.sign_in(name, password, address)
    assert "\n" not in str(caught.value)
    return caught.value


def stored(store: LabelStore, rows: type) -> list:
    with store.reading() as session:
        return list(session.scalars(select(rows)))


def test_a_new_account_signs_in_once_with_the_printed_password(accounts: Accounts) -> None:
    once = accounts.add("ada", "lead")
    signed_in = accounts.sign_in("ada", once, HERE)
    assert signed_in.must_change
    assert signed_in.account.name == "ada"
    assert signed_in.account.role == "lead"
    changed = accounts.change_password(signed_in.account.id, once, GOOD)
    assert not changed.must_change
    assert accounts.account(signed_in.token) is None, "the old sessions end"
    assert accounts.account(changed.token) == changed.account
    refuse(accounts, "ada", once)
    assert not accounts.sign_in("ada", GOOD, HERE).must_change


def test_every_account_is_a_labeler(accounts: Accounts, store: LabelStore) -> None:
    accounts.add("ada", "lead", group="held_out", admitted=False)
    (account,) = accounts.list()
    assert account.labeler_id == store.add_labeler("ada", group="held_out")
    assert (account.group, account.admitted) == ("held_out", False)


def test_a_labeler_who_is_there_already_keeps_their_work(
    accounts: Accounts, store: LabelStore
) -> None:
    labeler = store.add_labeler("bob")
    accounts.add("bob", "labeler")
    assert accounts.list()[0].labeler_id == labeler
    store.add_labeler("cyd", group="held_out")
    with pytest.raises(StoreError, match="'cyd' must stay human in group held_out"):
        accounts.add("cyd", "labeler")
    assert [account.name for account in accounts.list()] == ["bob"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "must have 1 to 200 characters"),
        ("  ", "must have 1 to 200 characters"),
        ("x" * 201, "must have 1 to 200 characters"),
        ("simulated-1", "must begin with 'simulated-' for simulated labelers and for no others"),
        ("a\nb", "must have visible characters only"),
        ("a\u202eb", "must have visible characters only"),
        ("ada", "the name is taken"),
        (" ada ", "the name is taken"),
    ],
)
def test_a_name_that_cannot_be_is_refused(ada: Accounts, name: str, rule: str) -> None:
    with pytest.raises(StoreError, match=rule):
        ada.add(name, "labeler")
    assert len(ada.list()) == 1


def test_a_role_that_is_none_is_refused(accounts: Accounts) -> None:
    with pytest.raises(StoreError, match=r"account\.role must be one of labeler, lead, got 'boss'"):
        accounts.add("ada", "boss")
    assert accounts.list() == ()


def test_wrong_name_wrong_password_and_disabled_are_one_message(ada: Accounts) -> None:
    set_up(ada, "bob")
    ada.disable("bob")
    errors = [refuse(ada, "eve", GOOD), refuse(ada, "ada", "x" * 20), refuse(ada, "bob", GOOD)]
    assert len({str(error) for error in errors}) == 1
    assert {error.wait for error in errors} == {None}


def test_nothing_in_the_store_lets_anybody_in(ada: Accounts, store: LabelStore) -> None:
    token = ada.sign_in("ada", GOOD, HERE).token
    invitation = ada.invite("labeler", "train", True, 24)
    refuse(ada, GOOD, "typed into the wrong field")
    rows = [AccountRow, SessionRow, InvitationRow, SignInAttemptRow]
    text = repr([vars(row) for kind in rows for row in stored(store, kind)])
    assert len(stored(store, SignInAttemptRow)) == 2
    for secret in (GOOD, token, invitation):
        assert secret not in text


def test_a_session_expires_at_its_hour_whatever_is_done(ada: Accounts, clock) -> None:
    token = ada.sign_in("ada", GOOD, HERE).token
    clock.advance(12 * 60 - 1)
    assert ada.account(token) is not None
    clock.advance(1)
    assert ada.account(token) is None
    assert ada.account("") is None
    assert ada.account(token + "x") is None


def test_sessions_that_expired_are_removed(ada: Accounts, store: LabelStore, clock) -> None:
    for _ in range(3):
        ada.sign_in("ada", GOOD, HERE)
    clock.advance(13 * 60)
    ada.sign_in("ada", GOOD, HERE)
    assert len(stored(store, SessionRow)) == 1


def test_the_hours_of_a_session_can_be_set(store: LabelStore, clock) -> None:
    token = set_up(Accounts(store, session=timedelta(minutes=30)), "ada", "lead")
    clock.advance(29)
    assert Accounts(store).account(token) is not None
    clock.advance(1)
    assert Accounts(store).account(token) is None


def test_signing_out_ends_one_session(ada: Accounts) -> None:
    one, two = (ada.sign_in("ada", GOOD, HERE).token for _ in range(2))
    ada.sign_out(one)
    ada.sign_out("unknown")
    assert ada.account(one) is None
    assert ada.account(two) is not None


def test_disabling_ends_the_sessions_at_once(ada: Accounts) -> None:
    token = set_up(ada, "bob")
    assert ada.account(token) is not None
    ada.disable("bob")
    assert ada.account(token) is None
    ada.enable("bob")
    assert ada.account(token) is None, "the session is over, not asleep"
    assert ada.account(ada.sign_in("bob", GOOD, HERE).token) is not None


def test_changing_and_resetting_a_password_end_the_sessions(ada: Accounts) -> None:
    first = set_up(ada, "bob")
    second = ada.sign_in("bob", GOOD, HERE)
    third = ada.change_password(second.account.id, GOOD, "another horse battery").token
    assert [ada.account(token) is None for token in (first, second.token, third)] == [1, 1, 0]
    once = ada.reset("bob")
    assert ada.account(third) is None
    refuse(ada, "bob", "another horse battery")
    assert ada.sign_in("bob", once, HERE).must_change


def test_a_new_password_keeps_the_rules(ada: Accounts) -> None:
    account = ada.sign_in("ada", GOOD, HERE).account
    with pytest.raises(StoreError, match="must have 12 to 200 characters"):
        ada.change_password(account.id, GOOD, "short")
    with pytest.raises(StoreError, match="must differ from the old"):
        ada.change_password(account.id, GOOD, GOOD)
    with pytest.raises(SignInError, match="The old password is wrong"):
        ada.change_password(account.id, "x" * 20, "another horse battery")
    with pytest.raises(StoreError, match="No account 99"):
        ada.change_password(99, GOOD, "another horse battery")
    assert ada.sign_in("ada", GOOD, HERE).account == account


def test_five_failures_of_a_name_shut_it_for_everybody_for_a_while(ada: Accounts, clock) -> None:
    for attempt in range(5):
        assert refuse(ada, "ada", "wrong password", f"192.0.2.{attempt}").wait is None
        clock.advance(1)
    shut = refuse(ada, "ada", GOOD, THERE)
    assert shut.wait == 10 * 60
    assert "Too many attempts. Wait 10 minutes" in str(shut)
    set_up(ada, "bob")
    clock.advance(9.5)
    assert refuse(ada, "ada", GOOD).wait == 30
    clock.advance(0.5)
    assert ada.sign_in("ada", GOOD, HERE).account.name == "ada"


def test_a_name_that_nobody_has_is_shut_like_any_other(ada: Accounts) -> None:
    waits = [refuse(ada, "eve", GOOD).wait for _ in range(6)]
    assert waits == [None] * 5 + [15 * 60]


def test_guesses_while_it_is_shut_do_not_keep_it_shut(ada: Accounts, clock) -> None:
    for _ in range(5):
        refuse(ada, "ada", "wrong password")
    for _ in range(14):
        clock.advance(1)
        assert refuse(ada, "ada", "wrong password").wait
    clock.advance(1)
    ada.sign_in("ada", GOOD, HERE)


def test_success_forgives_a_name_but_not_what_its_address_did_to_others(ada: Accounts) -> None:
    for _ in range(4):
        refuse(ada, "ada", "wrong password")
    ada.sign_in("ada", GOOD, HERE)
    assert [refuse(ada, "ada", "wrong").wait for _ in range(5)] == [None] * 5
    for other in range(11):
        refuse(ada, f"name {other}", "wrong password")
    assert refuse(ada, "bob", "wrong password").wait, "4 + 5 + 11 from one address"
    assert refuse(ada, "bob", "wrong password", THERE).wait is None


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("unknown", "unknown", True),
    ],
)
def test_an_address_counts_with_its_site(ada: Accounts, first: str, second: str, one: bool) -> None:
    for other in range(20):
        refuse(ada, f"name {other}", "wrong password", first)
    assert (refuse(ada, "bob", "wrong password", second).wait is not None) == one


def test_guessing_the_old_password_is_slowed_down_too(ada: Accounts) -> None:
    account = ada.sign_in("ada", GOOD, HERE).account
    for _ in range(5):
        with pytest.raises(SignInError, match="old password is wrong"):
            ada.change_password(account.id, "wrong password", "another horse battery")
    with pytest.raises(SignInError, match="Too many attempts"):
        ada.change_password(account.id, GOOD, "another horse battery")
    once = ada.reset("ada")
    assert ada.sign_in("ada", once, HERE).must_change, "a reset lets its owner in at once"


def test_old_failures_are_removed(ada: Accounts, store: LabelStore, clock) -> None:
    for other in range(10):
        refuse(ada, f"name {other}", "wrong password")
    assert len(stored(store, SignInAttemptRow)) == 20
    clock.advance(15)
    refuse(ada, "eve", "wrong password")
    assert len(stored(store, SignInAttemptRow)) == 2


def test_parallel_guesses_count_from_their_start(ada: Accounts) -> None:
    waits: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: waits.append(refuse(ada, "ada", "wrong").wait))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waits) == 12
    assert waits.count(None) == 5


def test_the_last_lead_stays(ada: Accounts) -> None:
    for lose in (lambda: ada.disable("ada"), lambda: ada.set_role("ada", "labeler")):
        with pytest.raises(
            StoreError, match=r"The last lead must stay .* got 'ada'\. Make another"
        ):
            lose()
    set_up(ada, "bob", "lead")
    ada.disable("bob")
    with pytest.raises(StoreError, match="The last lead"):
        ada.disable("ada")
    ada.enable("bob")
    ada.set_role("ada", "labeler")
    assert {account.name: account.role for account in ada.list()} == {
        "ada": "labeler",
        "bob": "lead",
    }
    assert ada.has_lead()
    ada.disable("ada")


def test_there_is_no_lead_until_one_is_added(accounts: Accounts) -> None:
    assert not accounts.has_lead()
    accounts.add("bob", "labeler")
    assert not accounts.has_lead()
    accounts.set_role("bob", "lead")
    assert accounts.has_lead()


@pytest.mark.parametrize("act", ["disable", "enable", "reset"])
def test_an_unknown_account_is_named(ada: Accounts, act: str) -> None:
    with pytest.raises(StoreError, match="No account 'eve' in the label store"):
        getattr(ada, act)("eve")


def test_a_role_counts_in_sessions_that_are_open(ada: Accounts) -> None:
    token = set_up(ada, "bob")
    ada.set_role("bob", "lead")
    account = ada.account(token)
    assert account is not None
    assert account.role == "lead"


def test_an_invitation_makes_one_account(ada: Accounts, store: LabelStore, clock) -> None:
    token = ada.invite("labeler", "held_out", False, 24)
    offer = ada.invitation(token, HERE)
    assert (offer.role, offer.expires) == ("labeler", clock.now + timedelta(hours=24))
    signed_in = ada.accept(token, " bob ", GOOD, HERE)
    assert not signed_in.must_change
    assert ada.account(signed_in.token) == signed_in.account
    made = signed_in.account
    assert (made.name, made.role, made.group, made.admitted) == (
        "bob",
        "labeler",
        "held_out",
        False,
    )
    for again in (lambda: ada.invitation(token, HERE), lambda: accept(ada, token, "cyd")):
        with pytest.raises(SignInError, match="unknown, used up or expired"):
            again()
    assert len(ada.list()) == 2
    assert len(stored(store, SessionRow)) == 2


def accept(accounts: Accounts, token: str, name: str) -> None:
    accounts.accept(token, name, GOOD, HERE)


def test_an_invitation_expires(ada: Accounts, store: LabelStore, clock) -> None:
    token = ada.invite("labeler", "train", True, 2)
    clock.advance(119)
    ada.invitation(token, HERE)
    clock.advance(1)
    with pytest.raises(SignInError, match="unknown, used up or expired"):
        accept(ada, token, "bob")
    ada.invite("labeler", "train", True, 2)
    assert len(stored(store, InvitationRow)) == 1, "expired ones are removed"


@pytest.mark.parametrize(
    ("name", "password", "rule"),
    [
        ("ada", GOOD, "taken"),
        ("old-labeler", GOOD, "taken"),
        ("simulated-bob", GOOD, "must begin with 'simulated-'"),
        ("bob", "short", "must have 12"),
    ],
)
def test_what_an_invited_person_gets_wrong_leaves_the_invitation_open(
    ada: Accounts, store: LabelStore, name: str, password: str, rule: str
) -> None:
    store.add_labeler("old-labeler")
    token = ada.invite("labeler", "train", True, 24)
    for _ in range(25):
        with pytest.raises(StoreError, match=rule):
            ada.accept(token, name, password, HERE)
    accept(ada, token, "bob")
    assert [account.name for account in ada.list()] == ["ada", "bob"]


def test_guessing_invitations_is_slowed_down(ada: Accounts) -> None:
    token = ada.invite("labeler", "train", True, 24)
    for attempt in range(20):
        with pytest.raises(SignInError) as caught:
            ada.invitation(f"guess {attempt}", HERE)
        assert caught.value.wait is None
    with pytest.raises(SignInError, match="Too many attempts"):
        accept(ada, token, "bob")
    ada.accept(token, "bob", GOOD, THERE)


def test_of_two_who_take_one_invitation_at_once_one_gets_it(ada: Accounts) -> None:
    token = ada.invite("labeler", "train", True, 24)
    race(lambda number: accept(ada, token, f"guest {number}"), 6, SignInError)
    assert len(ada.list()) == 2


def test_of_two_who_take_one_name_at_once_one_gets_it(ada: Accounts) -> None:
    tokens = [ada.invite("labeler", "train", True, 24) for _ in range(6)]
    race(lambda number: accept(ada, tokens[number], "bob"), 6, StoreError)
    assert [account.name for account in ada.list()] == ["ada", "bob"]


def race(act: Callable[[int], None], runners: int, error: type[Exception]) -> None:
    """Let runners do the same at once; all but one must meet the error."""
    start = threading.Barrier(runners)
    lost: list[int] = []

    def run(number: int) -> None:
        start.wait()
        try:
            act(number)
        except error:
            lost.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == runners - 1


@pytest.mark.parametrize("hours", [0, -1, 721, float("nan"), float("inf")])
def test_an_invitation_has_a_reasonable_time(ada: Accounts, hours: float) -> None:
    with pytest.raises(StoreError, match=r"invitation\.hours must be more than 0"):
        ada.invite("labeler", "train", True, hours)


def test_an_account_disabled_while_its_password_is_checked_stays_out(
    ada: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(ada, "bob")

    def disable_meanwhile(password: str, hashed: str | None) -> bool:
        del password, hashed
        ada.disable("bob")
        return True

    monkeypatch.setattr("pipeline.store.accounts.matches", disable_meanwhile)
    refuse(ada, "bob", GOOD)
