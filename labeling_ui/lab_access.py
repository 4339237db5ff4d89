"""Let only leads act on the lab's pages, and tell what went wrong in one line.

The mount lets nobody else in, but Gradio's handlers can be called by number: each one asks again
who it is, of the accounts as they are at that moment.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from sqlalchemy.exc import DBAPIError

from labeling_ui.leading import may_lead
from pipeline.errors import SteerlineError
from pipeline.store.accounts import Account, Accounts
from pipeline.store.judged import Judged
from pipeline.store.oversight import Oversight
from pipeline.store.store import LabelStore

NOT_A_LEAD = "Only leads may do this. Sign in as a lead."
NOT_SAVED = "The label store could not be used. Nothing was changed: try again in a moment."


class Records:
    """Keep the judgments that pages show until something about them changes.

    Args:
        oversight: the lead's side of the store.
    """

    def __init__(self, oversight: Oversight) -> None:
        self._oversight = oversight
        self._lock = threading.Lock()
        self._version: object = None
        self._judged: list[Judged] = []

    def judged(self) -> list[Judged]:
        """Return the newest revision of every judgment, in the order in which they came."""
        version = self._oversight.changes()
        with self._lock:
            if version != self._version:
                self._judged, self._version = self._oversight.judged(), version
            return self._judged

    def counted(self) -> list[Judged]:
        """Return those of labelers whose work was not taken out of training."""
        return [item for item in self.judged() if not item.excluded]


@dataclass(frozen=True)
class Lab:
    """What the lead's pages work with.

    Attributes:
        store: the open store.
        accounts: who may sign in.
        oversight: the lead's side of the store.
        records: the judgments.
        run_dir: the run's folder, or None where there is none.
    """

    store: LabelStore
    accounts: Accounts
    oversight: Oversight
    records: Records
    run_dir: Path | None

    @classmethod
    def over(cls, store: LabelStore, accounts: Accounts, run_dir: Path | None) -> Lab:
        """Return the lab over an open store."""
        oversight = Oversight(store)
        return cls(store, accounts, oversight, Records(oversight), run_dir)

    def lead(self, request: gr.Request) -> Account:
        """Return the lead who makes a request.

        Raises:
            gr.Error: if it is nobody, or no lead who may act now.
        """
        name = request.username
        account = next((one for one in self.accounts.list() if one.name == name), None)
        if not may_lead(account):
            raise gr.Error(NOT_A_LEAD, print_exception=False)
        assert account is not None, "nobody is no lead"
        return account

    def bind(
        self,
        event: Callable[..., Any],
        work: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
    ) -> Any:
        """Have an event of a component do work in a lead's name.

        Args:
            event: such as ``button.click``.
            work: takes the lead's account and the inputs' values, and returns the outputs'.
            inputs: components.
            outputs: components.

        Returns:
            Gradio's dependency, for ``then``.
        """

        def handler(request: gr.Request, *values: Any) -> Any:
            lead = self.lead(request)
            try:
                return work(lead, *values)
            except SteerlineError as error:
                raise _refusal(" ".join(str(error).splitlines())) from error
            except DBAPIError as error:
                raise _refusal(NOT_SAVED) from error

        handler.__name__ = work.__name__
        # Without limits: the default lets one event of a kind run at a time.
        return event(
            handler,
            list(inputs),
            list(outputs),
            concurrency_limit=None,
            api_visibility="private",
            show_progress="minimal",
        )


def tell(message: str) -> None:
    """Tell the lead that something was done; Gradio would read the message as HTML."""
    gr.Info(html.escape(message))


def _refusal(message: str) -> gr.Error:
    return gr.Error(html.escape(message), title="Not done", print_exception=False)
