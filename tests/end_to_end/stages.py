"""Name the micro line's stages, and compare what two runs of them left."""

from __future__ import annotations

import pytest

REWARDS = ("reward", "reward@adapters")
HYDRAS = ("ppo@hydra", "ppo@trunk")
PPO = ("ppo", "ppo@no_ptx", *HYDRAS)
POLICIES = ("pretrain", "sft", "sft@ppo_init", *PPO)
TRAINED = (*POLICIES, *REWARDS)
STAGES = (*POLICIES[:3], "sample", "label", *REWARDS, *PPO, "evaluate", "report")


def same(left: object, right: object, *, tolerance: float = 0.0) -> bool:
    """Compare JSON values: numbers within the tolerance, all else exactly."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = left.keys() == right.keys()
        return keys and all(same(left[k], right[k], tolerance=tolerance) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(same(a, b, tolerance=tolerance) for a, b in pairs)
    if isinstance(left, float) and isinstance(right, int | float) and tolerance:
        return left == pytest.approx(right, rel=tolerance, abs=tolerance, nan_ok=True)
    return left == right or (left != left and right != right)
