"""Train the reward model: ``steerline reward CONFIG``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_json
from pipeline.cards import write_card
from pipeline.config.reward import RewardSection
from pipeline.config.run import RunConfig
from pipeline.config.sft import SftSection
from pipeline.config.source import Source
from pipeline.data import fingerprint_sources, hash_sources, read_demonstrations, read_rankings
from pipeline.data.rows import STORE, draw_subset
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError, DataError
from pipeline.formatting import Formatter
from pipeline.labeling import open_store
from pipeline.models import new_reward_model, save_model
from pipeline.ranking_data import check_disjoint, check_rankings, encode_rankings
from pipeline.records import Ranking
from pipeline.reward import RewardTrainer, add_adapters, measure_offset, score_rankings
from pipeline.reward_report import judge_scores, summarize
from pipeline.runs import StageRun, hash_parent, model_of, open_stage
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Train a reward model on rankings and measure it on held-out ones."""
