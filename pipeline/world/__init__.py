"""Generate a small-English world whose truth is known, so that every effect can be measured."""

from pipeline.world.gold import GoldVerdict
from pipeline.world.labelers import LabelerSettings, SimulatedJudgment, SimulatedLabeler
from pipeline.world.tasks import FewShotDoc, FewShotTask
from pipeline.world.world import World, draw_labelers

__all__ = [
    "FewShotDoc",
    "FewShotTask",
    "GoldVerdict",
    "LabelerSettings",
    "SimulatedJudgment",
    "SimulatedLabeler",
    "World",
    "draw_labelers",
]
