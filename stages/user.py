"""Manage who may sign in to the labeling app: ``steerline user ACTION CONFIG [NAME]``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config.run import load_config
from pipeline.errors import ConfigError
from pipeline.labeling import open_store
from pipeline.store.accounts import ROLES, Account, Accounts
from pipeline.store.values import GROUPS
from stages.entry import CONFIG_HELP, OVERRIDE_HELP, Parser

LOCAL_URL = "http://127.0.0.1:7860"
OF_ONE = ("add", "disable", "enable", "reset", "role")
ACTIONS = {
    "add": "add an account and print its one-time password",
    "invite": "print a link with which one person makes one account",
    "list": "show every account",
    "disable": "shut an account out, at once",
    "enable": "let it in again",
    "reset": "print a new one-time password",
    "role": "make it a lead's or a labeler's",
}


def main(argv: Sequence[str]) -> None:
    """Run ``steerline user``.

    Raises:
        SteerlineError: for wrong arguments, an unusable store, or what the store refuses.
    """
    given = _parse(argv)
    overrides = [word for word in given.words if "=" in word]
    names = [word for word in given.words if "=" not in word]
    wanted = 1 if given.action in OF_ONE else 0
    if len(names) != wanted:
        raise ConfigError(
            f"'steerline user {given.action}' must have {('no NAME', 'one NAME')[wanted]}, got "
            f"{names}. See 'steerline user --help'."
        )
    config = load_config(given.config, overrides)
    # The first account may come before there is anything to label.
    with open_store(config, create=given.action == "add") as store:
        sys.stdout.write(f"{_act(Accounts(store), given, *names)}\n")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = Parser("steerline user", "Manage who may sign in to the labeling app.")
    parser.add_argument(
        "action", choices=ACTIONS, help="; ".join(f"{key}: {what}" for key, what in ACTIONS.items())
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument(
        "words",
        metavar="NAME|key=value",
        nargs="*",
        default=[],
        help=f"the account's name, a pseudonym without '='; {OVERRIDE_HELP}",
    )
    parser.add_argument("--role", choices=ROLES, default="labeler", help="what it may do (labeler)")
    parser.add_argument(
        "--group", choices=GROUPS, default="train", help="whether its labels train models (train)"
    )
    parser.add_argument(
        "--screening", action="store_true", help="add, invite: begin with the screening test"
    )
    parser.add_argument(
        "--hours", type=float, default=72.0, help="invite: until the link expires (72)"
    )
    parser.add_argument(
        "--public-url",
        metavar="URL",
        default=LOCAL_URL,
        help=f"invite: by what address people reach the app ({LOCAL_URL})",
    )
    return parser.parse_intermixed_args(argv)


def _act(accounts: Accounts, given: Namespace, name: str = "") -> str:
    """Do what was asked for and return what to print."""
    role, group, admitted = given.role, given.group, not given.screening
    match given.action:
        case "add":
            return _tell_password(name, accounts.add(name, role, group=group, admitted=admitted))
        case "invite":
            return _tell_invitation(given, accounts.invite(role, group, admitted, given.hours))
        case "disable":
            accounts.disable(name)
            return f"{name} can no longer sign in."
        case "enable":
            accounts.enable(name)
            return f"{name} can sign in again."
        case "reset":
            return _tell_password(name, accounts.reset(name))
        case "role":
            accounts.set_role(name, role)
            return f"{name} is a {role} now."
    return _tabulate(accounts.list())


def _tell_password(name: str, password: str) -> str:
    return f"{name} signs in with {password} once, and then chooses a password."


def _tell_invitation(given: Namespace, token: str) -> str:
    until = f"good for one {given.role} account and {given.hours:g} hours"
    return f"{given.public_url.rstrip('/')}/invite/{token}\n({until})"


def _tabulate(accounts: Sequence[Account]) -> str:
    table = Table(title=Text(f"{len(accounts)} accounts"), title_justify="left")
    for column in ("name", "role", "group", "state", "since"):
        table.add_column(column)
    for account in accounts:
        table.add_row(
            Text(account.name),
            account.role,
            account.group,
            _describe(account),
            f"{account.created:%Y-%m-%d}",
        )
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, file=sys.stdout)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def _describe(account: Account) -> str:
    if account.disabled:
        return "disabled"
    state = "has not chosen a password" if account.one_time else "enabled"
    return state if account.admitted else f"{state}, screening"
