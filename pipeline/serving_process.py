"""Start the process that holds the models, and hand out what it says; no torch here.

Asking and leaving never wait for the process: it reads nothing while it imports, and a pipe holds
little. A thread writes what there is to say to it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.serving_messages import Distribution, Failed, ServingSettings
from pipeline.serving_wire import Cancel, Done, Models, read_line, write_line

Sink = Callable[[Any], None]
"""Takes the messages about one request, from another thread."""
LAST = (Done, Failed, Distribution, Models)
"""After one of these, nothing more is said about a request."""
WORKER = "pipeline.serving_worker"


class ModelProcess:
    """One process that holds models, from its start to its end.

    Args:
        settings: how much of the machine the models may take.
    """

    def __init__(self, settings: ServingSettings) -> None:
        self._sinks: dict[int, Sink] = {}
        self._lock = threading.Lock()
        self._ended = self._closed = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(settings.threads),
            # An interruption in the terminal is for us alone, also while it still imports.
            process_group=0,
        )
        # Lines to write; None ends them.
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox.put(write_line(0, settings))
        self._reader = threading.Thread(target=self._read, name="model process", daemon=True)
        self._writer = threading.Thread(target=self._write, name="to the models", daemon=True)
        self._reader.start()
        self._writer.start()

    @property
    def ended(self) -> bool:
        """Tell whether the process is gone."""
        return self._ended

    @property
    def pid(self) -> int:
        """Return the id that the system gave the process."""
        return self._process.pid

    def ask(self, number: int, request: Any, sink: Sink) -> bool:
        """Pass a request on; tell whether there still was a process to take it.

        Args:
            number: one that no other request has.
            request: a message.
            sink: gets all that is said about it; a ``Failed`` if the process dies.
        """
        line = write_line(number, request)
        with self._lock:
            if self._ended:
                return False
            self._sinks[number] = sink
            self._outbox.put(line)
            return True

    def leave(self, number: int) -> None:
        """Cancel a request, if it is not answered yet."""
        with self._lock:
            if self._sinks.pop(number, None) is not None:
                self._outbox.put(write_line(number, Cancel()))

    def close(self) -> None:
        """End the process; what it was asked fails."""
        self._closed = True
        # There is nothing in it to lose, and it may be busy with a long slice of work.
        self._process.kill()
        self._reader.join()
        self._writer.join()

    def _write(self) -> None:
        """Write the lines that there are, until there are no more."""
        # A process that has just died does not read: the reader finds that out and tells.
        with contextlib.suppress(OSError), _pipe(self._process.stdin) as stdin:
            while (line := self._outbox.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _read(self) -> None:
        """Hand out messages until the process ends, and then fail what is not answered."""
        stdout = _pipe(self._process.stdout)
        try:
            for line in stdout:
                number, message = read_line(line)
                with self._lock:
                    last = isinstance(message, LAST)
                    sink = self._sinks.pop(number, None) if last else self._sinks.get(number)
                if sink is not None:
                    sink(message)
        finally:
            self._process.kill()
            code = self._process.wait()
            stdout.close()
            with self._lock:
                self._ended = True
                unanswered, self._sinks = self._sinks, {}
                self._outbox.put(None)
            reason = "The models were closed." if self._closed else _say_end(code)
            for sink in unanswered.values():
                sink(Failed(reason))


def _pipe(pipe: Any) -> Any:
    assert pipe is not None, "the process was started with pipes"
    return pipe


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of the process: our packages, its threads, no progress bars."""
    root = str(Path(__file__).parents[1])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _say_end(code: int) -> str:
    """Say how the process ended, by its exit code or, negative, the signal that killed it."""
    how = f"ended with exit code {code}"
    if code < 0:
        number = -code
        known = {one.value: one.name for one in signal.Signals}
        how = f"was killed by {known.get(number, f'signal {number}')}"
        how += ", perhaps for want of memory" if number == signal.SIGKILL else ""
    return f"The process that holds the models {how}. Ask again: it starts anew."
