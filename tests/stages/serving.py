"""Run ``steerline serve`` in a process of its own, and ask it as a labeler's browser would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2

SECONDS = 60
GOOD = "correct horse battery"
TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """A server in a process of its own, until the test ends."""

    def __init__(
        self, config: Path, *options: str, code: str = "", env: dict[str, str] | None = None
    ) -> None:
        start = ["-c", code] if code else ["-m", "stages.cli"]
        self.process = subprocess.Popen(
            [sys.executable, *start, "serve", str(config), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"(https?://[^/]+)/label, for leads .*/lab", self.line)
        assert found is not None, self.process.communicate(timeout=SECONDS)
        self.url = found.group(1)

    @property
    def cpu(self) -> float:
        """Return the seconds that all its threads have kept a processor busy."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", headers=headers, verify=False, timeout=SECONDS)

    @contextlib.contextmanager
    def sign_in(self, name: str) -> Iterator[httpx2.Client]:
        """Open a browser in which somebody with the password ``GOOD`` is signed in."""
        with httpx2.Client(
            base_url=self.url, headers={"origin": self.url}, timeout=SECONDS, verify=False
        ) as browser:
            answer = browser.post("/signin", data={"name": name, "password": GOOD})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            yield browser

    def wait(self) -> tuple[int, str, str]:
        """Return its exit code and what it has said since, once it ends."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        return self.wait()
