from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pipeline.config.run import load_config
from pipeline.config.sampling import DecodingSection
from pipeline.records import Prompt
from pipeline.serving_messages import GenerationRequest
from stages.interview import Interview
from stages.next_tokens import Look
from stages.subjects import Subject

TURNS = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where does Tom live?"},
)


@pytest.fixture
def subjects(compared, tmp_path):
    run = load_config(compared).run_dir
    return [Subject("gone", tmp_path / "gone"), Subject("sft", run / "sft" / "model")]


def make(subjects, *, as_json):
    template = GenerationRequest(
        "", TURNS, DecodingSection(temperature=0.0, max_new_tokens=5), reference=subjects[1].place
    )
    out = io.StringIO()
    return Interview(subjects, template, Look(3), Console(file=out, width=200), as_json), out


def test_a_model_that_fails_leaves_the_others_their_answers(server, subjects):
    interview, out = make(subjects, as_json=False)
    gone, sft = interview.hold(server, Prompt(TURNS))
    assert gone.failure.startswith("No model in ")
    assert (gone.tokens, gone.finished, gone.next) == ({}, {}, {})
    assert sft.failure == ""
    assert sft.finished[0].kl is None, "a model is no way from itself"
    assert len(sft.next[0].tokens) == 3
    assert sft.next[0].chosen.id == sft.tokens[0][0].id
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["system: Be brief.", "prompt: Where does Tom live?"]
    headings = [line.split(":")[0] for line in lines if line.startswith("--- ")]
    assert headings == ["--- gone failed", "--- sft", "--- sft, token 1"]


def test_json_is_all_that_goes_to_stdout(server, subjects, capsys):
    interview, out = make(subjects, as_json=True)
    gone, sft = interview.hold(server, Prompt(TURNS))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["text"]) for row in rows] == [
        *(("gone", None), ("sft", sft.finished[0].text)),
    ]
    assert rows[0]["error"] == gone.failure
    assert {json.dumps(row["prompt"]) for row in rows} == {json.dumps(list(TURNS))}
    assert out.getvalue() == ""
