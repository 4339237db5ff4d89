"""Say what went wrong: to a browser as a page, to the board's script as JSON; never internals."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from labeling_ui.rendering import render
from pipeline.errors import SteerlineError

logger = logging.getLogger(__name__)

CODES = {
    400: "refused",
    401: "signed_out",
    403: "forbidden",
    404: "unknown",
    405: "unknown",
    409: "stale",
    410: "gone",
    413: "too_large",
    429: "slow_down",
    503: "not_saved",
}
TITLES = {
    400: "That did not work",
    401: "You are signed out",
    403: "This page is not for you",
    404: "There is no such page",
    405: "There is no such page",
    413: "That was too much",
    429: "Slow down",
    503: "Not saved",
}
LINES = {
    400: "The request was malformed. Reload the page.",
    401: "Sign in again.",
    403: "Your account may not do this. Ask your lead.",
    404: "There is nothing here. Go back to the start.",
    405: "There is nothing here. Go back to the start.",
    413: "The request is too large. Shorten it.",
    503: "The label store could not be written. Nothing was changed: try again in a moment.",
}
FAULT = "Something went wrong here, and it was written down. Try again."


@dataclass(frozen=True)
class Failure:
    """What is told of an error.

    Attributes:
        status: of the response.
        line: one line for people.
        code: one word for the script; by default the status's.
    """

    status: int
    line: str = ""
    code: str = ""

    def response(self, scope: Scope, **more: object) -> Response:
        """Return a page where a browser asked for one, else JSON with whatever else is given."""
        line = self.line or LINES.get(self.status, FAULT)
        if wants_page(scope):
            title = TITLES.get(self.status, "Something went wrong")
            return render("error.html", status=self.status, title=title, line=line)
        code = self.code or CODES.get(self.status, "fault")
        return JSONResponse({"error": line, "code": code, **more}, self.status)


def failure_of(error: Exception) -> Failure:
    """Return what is told of an error that nobody caught, and write it down.

    Of the database's errors nothing is written down that could hold labels.
    """
    if isinstance(error, DBAPIError | PoolTimeoutError):
        cause = getattr(error, "orig", None) or error
        logger.warning("The label store could not be used (%s).", type(cause).__name__)
        return Failure(503)
    logger.error("A request failed.", exc_info=error)
    return Failure(500)


def failed(request: Request, error: Exception) -> Response:
    """Return what is told of an error that a handler has raised on purpose."""
    if isinstance(error, HTTPException):
        failure = Failure(error.status_code)
    elif isinstance(error, RequestValidationError):
        failure = Failure(400, _describe_invalid(error))
    else:
        failure = Failure(400, " ".join(str(error).splitlines()))
    return failure.response(request.scope)


def _describe_invalid(error: RequestValidationError) -> str:
    """Return one line that names the first field that is wrong."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "The request must be JSON. Reload the page."
    # Parts that begin so tell which arm of a union it was, and are no field.
    path = [str(part) for part in first["loc"][1:] if not str(part).startswith("<")]
    field = " ".join(".".join(path).split())[:80] or "The request"
    told = first["msg"].replace("Input should", "must", 1)
    return f"{field}: {told[:1].lower()}{told[1:]}. Reload the page."


ANSWERED: tuple[type[Exception], ...] = (HTTPException, RequestValidationError, SteerlineError)
"""The errors that ``failed`` answers."""


def wants_page(scope: Scope) -> bool:
    """Tell whether a browser is about to show the response, rather than a script to read it."""
    if scope["path"].startswith("/api/"):
        return False
    headers = Headers(scope=scope)
    destination = headers.get("sec-fetch-dest")
    if destination is not None:
        return destination == "document"
    return "text/html" in headers.get("accept", "")
