"""Record how long a model's completions are, for benchmarks that replay them.

``python -m benchmarks.completion_lengths MODEL SOURCE ... --what TEXT`` samples an answer to each
prompt at temperature 1 and writes ``results/completion-lengths.json``. A length counts the end
token; one more than the limit stands for an answer that had no end by then.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.forced_lengths import RECORDED
from benchmarks.side_by_side import answer
from benchmarks.subjects import spread_of
from pipeline.artifacts import write_json
from pipeline.config.sampling import DecodingSection
from pipeline.config.source import Source
from pipeline.data import read_prompts
from pipeline.formatting import Formatter
from pipeline.models import load_policy
from pipeline.sampling import SampledText, sample_completions
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_command


def length_of(completion: SampledText) -> int:
    """Return the place of the end token, from 1, or one more than the tokens without an end."""
    return len(completion.ids) + (completion.finish_reason != "eos")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recording as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.completion_lengths", description=__doc__
    )
    parser.add_argument("model", type=Path, help="a stage's model folder")
    parser.add_argument("sources", nargs="+", help="files of prompts")
    parser.add_argument("--what", required=True, help="what the model and the prompts are")
    parser.add_argument("--limit", type=int, default=48, help="prompts of a source")
    parser.add_argument("--max-characters", type=int, default=600, help="of a prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RECORDED)
    given = parser.parse_args(argv)

    def work() -> None:
        drawn = [
            Source(path, limit=given.limit, max_characters=given.max_characters)
            for path in given.sources
        ]
        prompts = read_prompts(drawn, given.seed)
        # Any stretch of the list is then a mixture of the sources.
        order = np.random.default_rng(given.seed).permutation(len(prompts))
        sampled = sample_completions(
            load_policy(given.model).eval(),
            Formatter(load_tokenizer(given.model)),
            [prompts[i] for i in order],
            DecodingSection(max_new_tokens=given.max_new_tokens),
            seed=given.seed,
        )
        lengths = [length_of(completion) for completion in sampled]
        tokens = [min(length, given.max_new_tokens) for length in lengths]
        record = {
            "what": given.what,
            "temperature": 1.0,
            "max_new_tokens": given.max_new_tokens,
            "seed": given.seed,
            "tokens": spread_of(tokens),
            "without_end": sum(length > given.max_new_tokens for length in lengths),
            "lengths": lengths,
        }
        write_json(given.out, record)
        answer(record)

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
