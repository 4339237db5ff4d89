"""Be an OpenAI-compatible server on this machine, that judges as a test tells it to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

ANSWERS = re.compile(r"<answer_a>\n(.*?)\n</answer_a>.*<answer_b>\n(.*?)\n</answer_b>", re.DOTALL)


class Reply(NamedTuple):
    """Say what the server sends back."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}


def say(text: str) -> Reply:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Reply(json.dumps({"object": "chat.completion", "choices": [choice]}).encode())


def refuse(status: int, text: str = "no", **headers: str) -> Reply:
    """Return an error; ``retry_after`` becomes a header."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Reply(json.dumps({"error": {"message": text}}).encode(), status, named)


def read_answers(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return the two answers that a request shows."""
    found = ANSWERS.search(body["messages"][0]["content"])
    assert found is not None
    return found[1], found[2]


def prefer_longer(body: Mapping[str, Any]) -> Reply:
    """Judge by length alone, whatever the order."""
    first, second = map(len, read_answers(body))
    return say("[[tie]]" if first == second else "[[A]]" if first > second else "[[B]]")


class JudgeServer:
    """Answer requests, and remember them.

    Attributes:
        answer: makes a reply of a request's body; a test may replace it.
        asked: the bodies, in the order in which they came.
        headers: of the last request.
        most: requests that were under way together, at most.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply] = prefer_longer) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, Any]] = []
        self.headers: Mapping[str, str] = {}
        self.paths: set[str] = set()
        self.most = self._now = 0
        self._lock = threading.Lock()
        self.url = ""

    @contextmanager
    def counting(self, body: Mapping[str, Any]) -> Iterator[None]:
        with self._lock:
            self.asked.append(body)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def serve(server: JudgeServer) -> Iterator[JudgeServer]:
    """Let the server listen on a free port for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            server.headers, body = dict(self.headers), json.loads(text)
            server.paths.add(self.path)
            with server.counting(body):
                reply = server.answer(body)
            try:
                self.send_response(reply.status)
                for key, value in reply.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
            except OSError:
                pass  # the judge has given up on a slow answer

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_port}/v1"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
