"""Be a process that reads nothing until a file is there, and then answers whatever was asked.

The file is named by ``DEAF_UNTIL``; without it all of this ends after a minute.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pipeline.serving_messages import ServingSettings
from pipeline.serving_wire import Cancel, Done, read_line, write_line

MINUTE = 60


def main() -> None:
    """Wait, and then read stdin to its end."""
    end = time.monotonic() + MINUTE
    while not Path(os.environ["DEAF_UNTIL"]).exists():
        if time.monotonic() > end:
            return
        time.sleep(0.02)
    for line in sys.stdin.buffer:
        number, message = read_line(line)
        if not isinstance(message, ServingSettings | Cancel):
            sys.stdout.buffer.write(write_line(number, Done()))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
