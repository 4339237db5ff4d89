"""Serve a label store with a run beside it until killed, models and all.

Usage: python -m tests.browser.compare.serve STORE PORT RUN_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from labeling_ui.app import create_app
from labeling_ui.settings import AppSettings
from pipeline.serving import ModelServer
from pipeline.serving_messages import ServingSettings
from pipeline.store import LabelStore

MEMORY = 1 << 28


def main(path: str, port: int, run_dir: str) -> None:
    settings = ServingSettings(memory_bytes=MEMORY, threads=1, device="cpu")
    with LabelStore.open(path) as store, ModelServer(settings) as models:
        app = create_app(store, AppSettings(port=port), run_dir=Path(run_dir), models=models)
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
