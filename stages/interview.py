"""Ask models the same prompt and show their answers as they grow: what ``steerline compare`` does.

A model that fails does so alone: its column says why, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live

from pipeline.records import Prompt
from pipeline.serving import STARTING, ModelServer, Stream
from pipeline.serving_messages import GenerationRequest, Notice
from stages.answer_columns import Column, rows_of, tabulate, write_plain
from stages.next_tokens import Look, look_ahead, tabulate_next, write_next
from stages.subjects import Subject

REFRESH = 0.1
"""Seconds between two pictures of growing answers."""

logger = logging.getLogger(f"pipeline.{__name__}")


@dataclass(frozen=True)
class Interview:
    """Say whom to ask, how, and where to show what they answer.

    Attributes:
        subjects: the models.
        template: how each is asked; model and prompt are set anew each time.
        look: which next tokens are shown too; None shows none.
        console: writes to stdout.
        as_json: write a JSON object an answer and line.
    """

    subjects: Sequence[Subject]
    template: GenerationRequest
    look: Look | None
    console: Console
    as_json: bool

    def hold(self, server: ModelServer, prompt: Prompt) -> list[Column]:
        """Let all models answer a prompt, show what they say, and return it."""
        columns = [Column(subject.name) for subject in self.subjects]
        requests = [self._request(subject, prompt) for subject in self.subjects]
        with contextlib.ExitStack() as open_ends:
            stream = open_ends.enter_context(server.generate_all(requests))
            picture = None
            if self._has_tables:
                picture = open_ends.enter_context(
                    Live(console=self.console, auto_refresh=False, transient=True)
                )
            self._follow(stream, prompt, columns, picture)
            if self.look is not None:
                look_ahead(server, requests, columns, self.look)
        self._show(prompt, columns)
        return columns

    @property
    def _has_tables(self) -> bool:
        return self.console.is_terminal and not self.as_json

    def _request(self, subject: Subject, prompt: Prompt) -> GenerationRequest:
        # A path or its name: a model is no way from itself.
        is_reference = str(subject.place) == str(self.template.reference)
        return dataclasses.replace(
            self.template,
            model=subject.place,
            tokenizer=subject.tokenizer,
            prompt=prompt.messages,
            reference=None if is_reference else self.template.reference,
        )

    def _follow(
        self, stream: Stream, prompt: Prompt, columns: Sequence[Column], picture: Live | None
    ) -> None:
        """Fill the columns as events come, until all is said; a terminal shows them growing."""
        shown, ended = 0.0, False
        while not ended:
            try:
                event = stream.poll(REFRESH)
            except StopIteration:
                event, ended = None, True
            if event is not None and event[1] != Notice(STARTING):
                columns[event[0]].take(event[1])
            if picture is not None and (ended or time.monotonic() - shown > REFRESH):
                picture.update(tabulate(prompt, columns, self.template.samples), refresh=True)
                shown = time.monotonic()

    def _show(self, prompt: Prompt, columns: Sequence[Column]) -> None:
        """Write what was said: as tables in a terminal, as JSON, or one after the other."""
        if self._has_tables:
            self.console.print(self._picture(prompt, columns))
            return
        for notice in dict.fromkeys(text for column in columns for text in column.notices):
            logger.warning("%s", notice)
        if not self.as_json:
            write_plain(self.console, prompt, columns)
            if self.look is not None:
                write_next(self.console, columns, self.look)
            return
        places = [str(subject.place) for subject in self.subjects]
        for row in rows_of(prompt, columns, places, with_next=self.look is not None):
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def _picture(self, prompt: Prompt, columns: Sequence[Column]) -> Group:
        answers = tabulate(prompt, columns, self.template.samples)
        if self.look is None:
            return answers
        return Group(answers, *tabulate_next(columns, self.template.samples, self.look))
