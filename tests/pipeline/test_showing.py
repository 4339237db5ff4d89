"""Completions that are shown as training goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from pipeline.config.run import resolve
from pipeline.distributed import Workers
from pipeline.records import Demonstration, Prompt, read_jsonl
from pipeline.runs import open_stage
from pipeline.showing import ShowSamples, fixed_prompts, greedy, text_starts


@pytest.fixture
def stage(tmp_path):
    config = resolve({"run_dir": str(tmp_path / "run"), "base": "given"})
    with open_stage(config, "pretrain", crew=Workers()) as run:
        yield run
        run.finish({})


def shown(run) -> list[tuple[int, str, str]]:
    rows = read_jsonl(run.folder / "samples.jsonl")
    return [(row["step"], row["prompt"], row["completion"]) for _, row in rows]


def test_prompts_leave_room_for_their_completions(tiny_formatter):
    texts = ["Where is Tom?", "Where is " + "the red " * 40 + "dog?", "Who is Mia?", "No?"]
    demonstrations = [Demonstration(Prompt.from_text(text), "here.") for text in texts]
    found = fixed_prompts(demonstrations, tiny_formatter, 2, 128)
    assert [prompt.logged["prompt"] for prompt in found] == ["Where is Tom?", "Who is Mia?"]
    for prompt, text in zip(found, (texts[0], texts[2]), strict=True):
        assert prompt.ids == tiny_formatter.prompt_ids(Prompt.from_text(text).messages)
    assert fixed_prompts(demonstrations, tiny_formatter, 0, 128) == []


@pytest.mark.parametrize(("context", "tokens"), [(2048, 64), (100, 50)])
def test_a_completion_has_half_of_the_context_at_most(context, tokens):
    assert greedy(context).max_new_tokens == tokens


def test_texts_are_shown_by_their_first_tokens(tiny_formatter):
    rows = np.array([tiny_formatter.document_ids("Mia lives in the forest with Tom.")[:8]] * 3)
    found = text_starts(rows, tiny_formatter, 2)
    assert [prompt.ids for prompt in found] == [rows[0, :4].tolist()] * 2
    assert found[0].logged == {"prompt": tiny_formatter.tokenizer.decode(rows[0, :4])}


def test_completions_are_the_greedy_ones_and_the_mode_is_kept(stage, tiny_formatter, make_policy):
    policy = make_policy(0, torch.float64).train()
    demonstrations = [Demonstration(Prompt.from_text("Where is Tom?"), "here.")]
    context = policy.config.max_position_embeddings
    prompts = fixed_prompts(demonstrations, tiny_formatter, 8, context)
    ShowSamples(stage, tiny_formatter, prompts).show(policy, 3)
    assert policy.training
    ids = torch.tensor([prompts[0].ids])
    with torch.no_grad():
        for _ in range(greedy(context).max_new_tokens):
            token = policy(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
            ids = torch.cat([ids, token[:, None]], dim=1)
            if token == tiny_formatter.end_id:
                break
    expected = tiny_formatter.decode(ids[0, len(prompts[0].ids) :].tolist())
    assert shown(stage) == [(3, "Where is Tom?", expected)]


def test_samples_are_shown_at_the_start_at_validations_checkpoints_and_the_end(
    stage, tiny_formatter, make_policy
):
    policy = make_policy(0, torch.float32)
    prompts = text_starts([tiny_formatter.document_ids("Mia lives here.")], tiny_formatter, 1)
    callback, state = ShowSamples(stage, tiny_formatter, prompts), TrainerState(max_steps=5)
    callback.on_train_begin(None, state, TrainerControl(), model=policy)
    for step in range(1, 6):
        state.global_step = step
        control = TrainerControl(should_evaluate=step == 2, should_save=step == 3)
        callback.on_step_end(None, state, control, model=policy)
    callback.on_train_begin(None, state, TrainerControl(), model=policy)  # A resume.
    assert [step for step, *_ in shown(stage)] == [0, 2, 3, 5]


def test_the_whole_prompt_is_written_beside_its_last_turn(stage, tiny_formatter, make_policy):
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is Tom?"},
    )
    demonstrations = [Demonstration(Prompt(turns), "here.")]
    prompts = fixed_prompts(demonstrations, tiny_formatter, 1, 128)
    assert prompts[0].ids == tiny_formatter.prompt_ids(turns)
    ShowSamples(stage, tiny_formatter, prompts).show(make_policy(0, torch.float32, context=128), 1)
    ((_, row),) = read_jsonl(stage.folder / "samples.jsonl")
    assert row.keys() == {"step", "prompt", "messages", "completion"}
    assert (row["prompt"], row["messages"]) == ("Where is Tom?", list(turns))
