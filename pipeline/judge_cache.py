"""Keep a judge's verdicts on disk as they come, so that no question is asked twice.

One JSON object a line, appended and flushed: a kill loses at most the line at work. The key is a
hash of all that a verdict depends on, so a file may serve several judges and several templates.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, get_args

from pipeline.errors import DataError

Verdict = Literal["first", "second", "tie"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class VerdictCache:
    """Hold verdicts by key, in memory and in a file; threads may share it.

    Args:
        path: the file; it is made with its folder when the first verdict comes.

    Raises:
        DataError: if a line of the file is damaged, other than a last one that was cut.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._verdicts: dict[str, Verdict] = dict(_read(path))

    def __len__(self) -> int:
        """Return how many verdicts there are."""
        return len(self._verdicts)

    def find(self, key: str) -> Verdict | None:
        """Return a verdict, or None where there is none yet."""
        return self._verdicts.get(key)

    def add(self, key: str, verdict: Verdict, model: str, reply: str) -> None:
        """Keep a verdict, with the judge's name and words for whoever reads the file."""
        line = {"key": key, "verdict": verdict, "model": model, "reply": reply}
        with self._lock:
            self._verdicts[key] = verdict
            if self._file is None:
                self._file = self._open()
            text = json.dumps(line, ensure_ascii=False) + "\n"
            self._file.write(text.encode("utf-8", "replace"))
            self._file.flush()

    def close(self) -> None:
        """Close the file; the next verdict opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> IO[bytes]:
        """Open the file at its end, a cut last line dropped."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab+")
        file.seek(0)
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
        file.seek(0, 2)
        return file


def _read(path: Path) -> Iterator[tuple[str, Verdict]]:
    """Yield keys and verdicts; a last line that was cut is left out."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row: Any = json.loads(line)
                key, verdict = row["key"], row["verdict"]
            except (ValueError, LookupError, TypeError) as error:
                raise _damage(path, number) from error
            if verdict not in VERDICTS or not isinstance(key, str):
                raise _damage(path, number)
            yield key, verdict


def _damage(path: Path, number: int) -> DataError:
    return DataError.at(path, number, "must hold a 'key' and a 'verdict'. Remove the line.")
