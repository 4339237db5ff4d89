"""Serve a label store until killed: the app in a process of its own, as ``steerline serve`` does.

Usage: python -m tests.browser.serve STORE PORT
"""

from __future__ import annotations

import sys

import uvicorn

from labeling_ui.app import create_app
from labeling_ui.settings import AppSettings
from pipeline.store import LabelStore

GOAL = 40


def main(path: str, port: int) -> None:
    with LabelStore.open(path) as store:
        app = create_app(store, AppSettings(port=port, goal=GOAL))
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
