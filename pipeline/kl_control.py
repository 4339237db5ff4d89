"""Hold the weight of the KL in the reward, fixed or steered towards a target."""

from __future__ import annotations

from pipeline.config.ppo import PpoSection

LARGEST_ERROR = 0.2
"""The relative error counts for no more than this (Ziegler et al. 2019, section 2.2)."""


class KLController:
    """Hold beta; with a target, move it after each rollout.

        e = clip(KL / target - 1, -0.2, 0.2)
        beta <- beta (1 + e * episodes / horizon)

    Ziegler et al. 2019, section 2.2; their gain K_beta = 0.1 is episodes / horizon in their code
    (N details, 20).

    Args:
        section: ``kl_coef`` is beta, at the start; ``kl_target`` null keeps it.
    """

    def __init__(self, section: PpoSection) -> None:
        self.coef = section.kl_coef
        self._target, self._horizon = section.kl_target, section.kl_horizon

    def update(self, kl: float, episodes: int) -> None:
        """Take note of a rollout.

        Args:
            kl: its mean KL a completion, nats.
            episodes: how many completions it had.
        """
        if self._target is None:
            return
        error = min(max(kl / self._target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        self.coef *= 1 + error * episodes / self._horizon

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed training needs."""
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self.coef = state["coef"]
