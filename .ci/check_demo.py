"""Fail when the demo's figures miss the bars of one seed, which stand in ``bars.json``.

``check_demo.py LOG`` reads the last line of the demo's output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Compare the last line of the demo's output with the bars; return an exit code."""
    bars = json.loads(Path(__file__).with_name("bars.json").read_text(encoding="utf-8"))
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    figures = json.loads(lines[-1])
    base, sft = (figures[stage]["instruction_following"] for stage in ("base", "sft"))
    measured = {
        "sft_gain_in_instruction_following": sft - base,
        "ppo_win_rate": figures["ppo_win_rate"],
        "reward_accuracy": figures["reward_accuracy"],
    }
    missed = {name: value for name, value in measured.items() if not value >= bars[name]}
    for name, value in measured.items():
        verdict = "missed" if name in missed else "met"
        sys.stdout.write(f"{name}: {value:.3f}, bar {bars[name]:.2f}: {verdict}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
