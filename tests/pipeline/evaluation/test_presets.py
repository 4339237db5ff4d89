from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.catalogue import _build_preset, load_tasks
from pipeline.evaluation.harness import run_tasks
from pipeline.evaluation.loading import in_memory, quiet, settle, shipped_index
from pipeline.evaluation.presets import BIAS, INSTRUCTGPT, LLAMA, PRESETS
from pipeline.evaluation.tasks import shots_of

OPTIONS = {"limit": None, "batch_size": 16, "bins": 4, "seed": 0}
EVERY = {task.name: task for tasks in PRESETS.values() for task in tasks}


@pytest.fixture
def make():
    """Return a function that builds a preset's task on rows of one's own."""

    def build(name, **splits):
        task = EVERY[name]
        changes = {**task.changes, "custom_dataset": in_memory(splits)}
        with quiet():
            (made,) = _build_preset(dataclasses.replace(task, changes=changes), name, None)
        settle(made)
        return made

    return build


def prompt_of(task, shots=0, place=0):
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(0)
    return task.fewshot_context(task.eval_docs[place], shots)


def test_every_task_is_in_lm_evals_index():
    for task in EVERY.values():
        folder, _, name = task.source.partition("/")
        if name:
            assert name in shipped_index(folder).task_index, task.name
        else:
            assert {"doc_to_text", "doc_to_target"} <= task.changes.keys()
            assert task.file if task.local else task.changes["dataset_path"]


def test_names_are_different_and_none_is_lm_evals_where_it_departs():
    listed = [task.name for tasks in (LLAMA, INSTRUCTGPT) for task in tasks]
    assert len(listed) == len(set(listed))
    for task in EVERY.values():
        if task.changes or task.headline != "acc":
            assert task.name not in shipped_index(task.source.partition("/")[0] or "arc").task_index
    assert {task.name for task in BIAS} <= set(listed)


def test_the_papers_numbers_of_examples():
    shots = {task.name.removeprefix("instructgpt_"): task.shots for task in INSTRUCTGPT}
    expected = {
        **dict.fromkeys(("drop", "squadv2"), (0, 4)),
        **dict.fromkeys(("hellaswag", "rte", "sst", "wsc", "wmt15_fr_en"), (0, 15)),
        "quac": (0, 2),
        **dict.fromkeys(("cnn_dm", "reddit_tldr", "realtoxicityprompts"), (0,)),
        **dict.fromkeys((task.name for task in BIAS), (0,)),
    }
    assert shots == expected
    assert {task.shots for task in LLAMA} == {(0,)}


DROP = {
    "query_id": "1",
    "passage": "Mia has 3 cats and 2 dogs.",
    "question": "How many cats?",
    "answer": {"number": "3", "date": {"day": "", "month": "", "year": ""}, "spans": []},
    "validated_answers": {"number": [], "date": [], "spans": []},
}
SQUAD = {"id": "1", "title": "Rome", "context": "Rome is old.", "question": "What is old?"}
WSC = {"text": "Mia saw Tom when he ran.", "span1_text": "Tom", "span2_text": "he"}
WSC = {**WSC, "span1_index": 2, "span2_index": 4, "idx": 0, "label": 1}
PROMPTS = {
    "instructgpt_drop": (
        DROP,
        "Passage: Mia has 3 cats and 2 dogs.\nQuestion: How many cats?\nAnswer:",
        " 3",
    ),
    "instructgpt_squadv2": (
        {**SQUAD, "answers": {"text": ["Rome"], "answer_start": [0]}},
        "Title: Rome\n\nBackground: Rome is old.\n\nQ: What is old?\n\nA:",
        " Rome",
    ),
    "instructgpt_rte": (
        {"sentence1": "Mia has a cat.", "sentence2": "Mia has a pet.", "label": 0, "idx": 0},
        "Passage: Mia has a cat.\nQuestion: From this passage can one reasonably conclude that "
        "Mia has a pet?\nAnswer:",
        " Yes",
    ),
    "instructgpt_sst": (
        {"sentence": "a warm, wise film", "label": 1, "idx": 0},
        "Text: a warm, wise film\nLabel:",
        " positive",
    ),
    "instructgpt_wsc": (
        WSC,
        "Passage: Mia saw Tom when *he* ran.\nQuestion: In the passage above, what does the "
        'pronoun "*he*" refer to?\nAnswer:',
        " Tom",
    ),
    "instructgpt_wmt15_fr_en": (
        {"translation": {"fr": "Le chat dort.", "en": "The cat sleeps."}},
        "French: Le chat dort.\n\nEnglish:",
        " The cat sleeps.",
    ),
}


TESTED = ("instructgpt_wmt15_fr_en",)
"""Those that ask the test split and show the validation split."""


@pytest.mark.parametrize("name", PROMPTS)
def test_the_papers_prompts(make, name):
    row, question, answer = PROMPTS[name]
    # lm_eval shows no row that equals the question's.
    train = [{**row, "copy": copy} for copy in range(1, 4)]
    asked = [{**row, "copy": 0}]
    task = make(name, train=train, validation=train if name in TESTED else asked, test=asked)
    zero, two = prompt_of(task), prompt_of(task, 2)
    assert zero.endswith(question)
    description = zero.removesuffix(question)
    assert two == f"{description}{f'{question}{answer}' + chr(10) * 2}" + (
        f"{question}{answer}\n\n{question}"
    )
    assert shots_of(task, [7]) == EVERY[name].shots


def dialog(who, answers):
    """Return a dialog of QuAC about somebody, in the data set's form."""
    return {
        "dialogue_id": who,
        "wikipedia_page_title": who,
        "background": f"{who} is a painter.",
        "section_title": "Early life",
        "context": f"{who} was born in Rome and has 3 cats. CANNOTANSWER",
        "questions": [f"What is question {turn} on {who}?" for turn in range(len(answers))],
        "answers": {"texts": [[answer, "in Rome"] for answer in answers]},
        "orig_answers": {"texts": answers},
    }


def test_quac_asks_after_the_turns_before_and_shows_whole_dialogs(make):
    train = [dialog(who, ["in Rome", "CANNOTANSWER"]) for who in ("Ann", "Bob", "Eva")]
    task = make("instructgpt_quac", train=train, validation=[dialog("Mia", ["3 cats", "Rome"])])
    assert len(task.eval_docs) == 2
    instruction = (
        "Answer each question using information in the preceding background paragraph. If there is "
        'not enough information provided, answer with "I don\'t know."\n\n'
    )
    asked = (
        "TITLE: Mia -- Early life\n\nPARAGRAPH: Mia was born in Rome and has 3 cats.\n\n"
        "Q: What is question 0 on Mia?\n\nA: 3 cats\n\nQ: What is question 1 on Mia?\n\nA:"
    )
    assert prompt_of(task, 0, 1) == instruction + asked
    shown = prompt_of(task, 2, 1).removeprefix(instruction).removesuffix(asked)
    for whole in shown.removesuffix("\n\n").split("\n\nTITLE: "):
        who = whole.removeprefix("TITLE: ").partition(" --")[0]
        assert whole.removeprefix("TITLE: ") == (
            f"{who} -- Early life\n\nPARAGRAPH: {who} was born in Rome and has 3 cats.\n\n"
            f"Q: What is question 0 on {who}?\n\nA: in Rome\n\n"
            f"Q: What is question 1 on {who}?\n\nA: I don't know."
        )
    assert shown.count("TITLE: ") == 2


def test_quac_is_headed_by_f1(make, make_policy, tiny_tokenizer):
    train = [dialog(who, ["in Rome", "CANNOTANSWER"]) for who in ("Ann", "Bob", "Eva")]
    task = make("instructgpt_quac", train=train, validation=[dialog("Mia", ["3 cats", "Rome"])])
    outcome = run_tasks(
        make_policy(context=1024), tiny_tokenizer, {"quac": task}, shots=[7], **OPTIONS
    )
    assert list(outcome.figures["quac"]) == ["0", "2"]
    for figures in outcome.figures["quac"].values():
        assert figures["acc"] == pytest.approx(figures["f1"])
        assert {"f1_stderr", "stderr"} <= set(figures)
        assert figures["n"] == 2


@pytest.fixture
def find(tmp_path):
    """Return a function that loads a preset's task from the files of a folder, if it can."""
    from pipeline.evaluation import catalogue

    def load(name):
        loader = catalogue._Loader([0], 0, tmp_path, tmp_path, True)
        with quiet():
            return list(loader._preset_task(EVERY[name])), loader.left_out

    return load


def test_reddit_posts_are_those_of_a_file(find, write_rows, make_policy, tiny_tokenizer):
    name = "instructgpt_reddit_tldr"
    assert find(name) == (
        [],
        [f"evaluate.tasks: {name} is left out: evaluate.data has no reddit_tldr.jsonl"],
    )
    write_rows(
        [{"id": i, "content": f"Mia has {i} cats.", "summary": "Mia has cats."} for i in range(2)],
        "reddit_tldr.jsonl",
    )
    (task,), left_out = find(name)
    assert left_out == []
    assert prompt_of(task, 0, 1) == "Mia has 1 cats.\n\nTL;DR:"
    settle(task)
    outcome = run_tasks(
        make_policy(context=256), tiny_tokenizer, {name: task}, shots=[3], **OPTIONS
    )
    assert set(outcome.figures[name]) == {"0"}
    assert {"rougeL", "rougeL_stderr"} <= set(outcome.figures[name]["0"])
    assert "acc" not in outcome.figures[name]["0"]


def sst(count):
    words = ("good", "dull", "kind", "cold")
    return [
        {"sentence": f"a {words[i % 4]} film with {i} cats", "label": i % 2, "idx": i}
        for i in range(count)
    ]


def test_instructgpt_picks_by_token(make, make_policy, tiny_tokenizer):
    task = make("instructgpt_sst", train=sst(40)[20:], validation=sst(12))
    policy = make_policy(context=2048)
    outcome = run_tasks(policy, tiny_tokenizer, {"sst": task}, shots=[1], **OPTIONS)
    assert list(outcome.figures["sst"]) == ["0", "15"]
    some = run_tasks(policy, tiny_tokenizer, {"sst": task}, shots={"sst": [15]}, **OPTIONS)
    assert some.figures["sst"] == {"15": outcome.figures["sst"]["15"]}
    for shots, figures in outcome.figures["sst"].items():
        assert figures["acc"] == figures["acc_token"]
        assert figures["ece"] == figures["ece_token"]
        rows = [row for row in outcome.documents if row["shots"] == int(shots)]
        chosen = [int(np.argmax(np.divide(row["logliks"], row["tokens"]))) for row in rows]
        assert [row["correct"] for row in rows] == [
            int(pick == row["gold"]) for pick, row in zip(chosen, rows, strict=True)
        ]
        summed = [int(np.argmax(row["logliks"])) == row["gold"] for row in rows]
        assert figures["acc_sum"] == pytest.approx(np.mean(summed))


def test_llama_weighs_boolq_by_the_answers_prior(make, make_policy, tiny_tokenizer):
    rows = [
        {"passage": f"Mia has {i} cats.", "question": f"has mia {i % 3} cats", "label": i % 2}
        for i in range(9)
    ]
    task = make("llama_boolq", train=rows, validation=rows)
    assert shots_of(task, [5]) == (0,)
    policy = make_policy(context=256)
    outcome = run_tasks(policy, tiny_tokenizer, {"boolq": task}, shots=[0], **OPTIONS)
    prior = task.construct_requests(
        rows[0], "context", metadata=("boolq", 0, 1), apply_chat_template=False
    )[2:]
    assert [request.arguments for request in prior] == [("Answer:", " no"), ("Answer:", " yes")]
    logliks = np.array([row["logliks"] for row in outcome.documents])
    scores = np.array([row["scores"] for row in outcome.documents])
    # What is taken off is the same for every question: the bare answers'.
    bare = logliks - scores
    assert np.abs(bare - bare[0]).max() < 1e-6
    for value, answer in zip(bare[0], ("no", "yes"), strict=True):
        prefix, whole = (
            tiny_tokenizer(text)["input_ids"] for text in ("Answer:", f"Answer: {answer}")
        )
        with torch.no_grad():
            logprobs = policy(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(prefix), len(whole))
        expected = sum(logprobs[place - 1, whole[place]].item() for place in places)
        assert value == pytest.approx(expected, abs=1e-6)
    figures = outcome.figures["boolq"]["0"]
    right = [int(np.argmax(row)) == i % 2 for i, row in enumerate(scores)]
    assert figures["acc"] == pytest.approx(np.mean(right))


def test_squad_is_headed_by_f1(make, make_policy, tiny_tokenizer):
    rows = [
        {**SQUAD, "id": str(i), "answers": {"text": texts, "answer_start": [0] * len(texts)}}
        for i, texts in enumerate((["Rome"], [], ["the town", "Rome"]))
    ]
    train = [{**row, "question": f"What is {row['id']}?"} for row in rows * 2]
    task = make("instructgpt_squadv2", train=train, validation=rows)
    policy = make_policy(context=1024)
    outcome = run_tasks(policy, tiny_tokenizer, {"squad": task}, shots=[0], **OPTIONS)
    for figures in outcome.figures["squad"].values():
        assert figures["acc"] == pytest.approx(figures["f1"])
        assert {"exact_match", "f1_stderr", "n", "stderr"} <= set(figures)


TRUTHS = {
    "question": "What do cats do?",
    "best_answer": "Cats purr.",
    "correct_answers": ["Cats purr.", "They purr"],
    "incorrect_answers": ["Cats sing."],
}
GENERATED = {
    "instructgpt_drop": (DROP, {"f1", "em", "acc"}),
    "instructgpt_wsc": (WSC, {"acc", "stderr"}),
    "instructgpt_wmt15_fr_en": (PROMPTS["instructgpt_wmt15_fr_en"][0], {"bleu", "chrf"}),
    "instructgpt_cnn_dm": (
        {"article": "Mia has a cat. It is red.", "highlights": "Mia has a cat."},
        {"rougeL", "rougeL_stderr"},
    ),
    "truthfulqa_gen": (TRUTHS, {"bleu_acc", "rouge1_diff", "bleu_acc_stderr"}),
}


@pytest.mark.parametrize("name", GENERATED)
def test_tasks_that_are_answered_in_words(make, make_policy, tiny_tokenizer, name):
    row, keys = GENERATED[name]
    rows = [{**row, "copy": copy} for copy in range(2)]
    task = make(name, train=rows, validation=rows, test=rows)
    outcome = run_tasks(
        make_policy(context=1024), tiny_tokenizer, {name: task}, shots={name: [0]}, **OPTIONS
    )
    figures = outcome.figures[name]["0"]
    assert keys <= set(figures)
    assert figures["n"] == 2
    assert ("acc" in figures) == ("acc" in keys)
    # What a corpus's BLEU is made of stands in every document's row.
    counted = ["bleu_counts" in row for row in outcome.documents]
    assert counted == ["bleu" in keys] * 2


@pytest.mark.usefixtures("no_hub")
def test_what_a_preset_lacks_is_said(tmp_path, monkeypatch):
    from pipeline.evaluation import catalogue

    monkeypatch.delenv("PERSPECTIVE_API_KEY", raising=False)
    loader = catalogue._Loader([0], 0, tmp_path, None, True)
    with quiet(), pytest.raises(DataError, match="instructgpt_drop cannot be loaded"):
        list(loader.load("instructgpt"))
    toxic = EVERY["instructgpt_realtoxicityprompts"]
    assert list(loader._preset_task(toxic)) == []
    assert loader.left_out == [
        "evaluate.tasks: instructgpt_realtoxicityprompts is left out: "
        "PERSPECTIVE_API_KEY is not set",
    ]


@pytest.mark.usefixtures("few_names")
def test_an_unknown_preset_gives_the_nearest(tmp_path):
    for wrong, right in (("offlin", "offline"), ("instructgtp", "instructgpt"), ("tiney", "tiny")):
        with pytest.raises(ConfigError, match=rf"got '{wrong}'\. Did you mean '{right}'\?"):
            load_tasks([wrong], [0], 0, tmp_path)
