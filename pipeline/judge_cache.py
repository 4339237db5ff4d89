"""Keep a judge's verdicts on disk as they come, so that no question is asked twice.

One JSON object a line, appended and flushed: a kill loses at most the line at work. The key is a
hash of all that a verdict depends on, so a file may serve several judges and several templates.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import IO, Literal, get_args

from pipeline.errors import DataError
from pipeline.records import read_log

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
        self._verdicts: dict[str, Verdict] = {}
        for number, row in enumerate(read_log(path), start=1):
            if row.get("verdict") not in VERDICTS or not isinstance(row.get("key"), str):
                what = "must hold a 'key' and a 'verdict'. Remove the line."
                raise DataError.at(path, number, what)
            self._verdicts[row["key"]] = row["verdict"]

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
