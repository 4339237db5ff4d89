from __future__ import annotations

import itertools

import pytest
from datasets import Dataset

from pipeline.evaluation.paper_tasks import (
    answer_squad,
    ask_wsc,
    keep_dialogs,
    keep_positive,
    score_quac,
    score_squad,
    score_summary,
    score_tldr,
    score_wsc,
    split_dialogs,
    token_f1,
)


def squad(*answers):
    return {"answers": {"text": list(answers)}}


@pytest.mark.parametrize(
    ("given", "right", "f1"),
    [
        ("the red fox", "red fox", 1.0),
        ("Red, fox!", "a red fox", 1.0),
        # One of three words given, one of two wanted: 2 * 1 / (3 + 2).
        ("big red dog", "red fox", 0.4),
        # A word counts as often as it is in both.
        ("dog dog", "dog", 2 / 3),
        ("cat", "dog", 0.0),
        ("", "dog", 0.0),
        ("", "the", 1.0),
    ],
)
def test_f1_of_two_answers(given, right, f1):
    assert token_f1(given, right) == pytest.approx(f1)


def test_the_best_right_answer_counts():
    scored = score_squad(squad("in the town", "Rome"), ["rome."])
    assert scored == {"f1": 1.0, "exact_match": 1.0}
    assert score_squad(squad("Rome", "the old town"), ["old Rome"]) == {
        "f1": pytest.approx(2 / 3),
        "exact_match": 0.0,
    }


def test_saying_that_there_is_no_answer():
    assert answer_squad(squad()) == "Not in background."
    assert answer_squad(squad("Rome", "Roma")) == "Rome"
    assert score_squad(squad(), [" not in background"]) == {"f1": 1.0, "exact_match": 1.0}
    assert score_squad(squad(), ["Rome"]) == {"f1": 0.0, "exact_match": 0.0}
    assert score_squad(squad("Rome"), ["Not in background."]) == {"f1": 0.0, "exact_match": 0.0}


DIALOG = {
    "wikipedia_page_title": "Mia",
    "section_title": "Early life",
    "context": "Mia lived in Rome. CANNOTANSWER",
    "questions": ["Where?", "When?", "Why?"],
    "orig_answers": {"texts": ["in Rome", "CANNOTANSWER", "lived"]},
    "answers": {"texts": [["in Rome", "Rome"], ["CANNOTANSWER"], ["lived"]]},
}


def test_a_dialog_is_a_row_a_question_and_its_last_turn_is_all_of_it():
    dialogs = Dataset.from_list([DIALOG, {**DIALOG, "wikipedia_page_title": "Tom"}])
    turns = split_dialogs(dialogs)
    assert turns["title"] == ["Mia -- Early life"] * 3 + ["Tom -- Early life"] * 3
    assert set(turns["paragraph"]) == {"Mia lived in Rome."}
    assert turns["question"][:3] == ["Where?", "When?", "Why?"]
    assert turns["answer"][:3] == ["in Rome", "I don't know.", "lived"]
    assert turns["right"][:2] == [["in Rome", "Rome"], ["I don't know."]]
    before = "Q: Where?\n\nA: in Rome\n\n"
    assert turns["before"][:2] == ["", before]
    assert turns["before"][2] == f"{before}Q: When?\n\nA: I don't know.\n\n"
    assert keep_dialogs(dialogs)[:] == turns.select([2, 5])[:]


def test_quacs_f1_is_the_mean_over_leaving_each_answer_out():
    right = ["in the old town", "the town of Rome", "Rome", "a town"]
    for given in ("the town", "Rome", "in old Rome", "nowhere"):
        scores = [token_f1(given, answer) for answer in right]
        best = [max(left) for left in itertools.combinations(scores, len(right) - 1)]
        scored = score_quac({"right": right}, [given])
        assert scored == {"f1": pytest.approx(sum(best) / len(best))}
    assert score_quac({"right": ["old Rome"]}, ["Rome"]) == {"f1": pytest.approx(2 / 3)}


UNKNOWN = "I don't know."


@pytest.mark.parametrize(
    ("right", "given", "f1"),
    [
        ([UNKNOWN], " I don't know", 1.0),
        ([UNKNOWN, "Rome"], "Rome", 0.0),
        ([UNKNOWN, "Rome"], UNKNOWN, 1.0),
        ([UNKNOWN], "", 0.0),
        ([UNKNOWN, "Rome", "Rome"], "Rome", 1.0),
        ([UNKNOWN, "I know Rome", "I know"], UNKNOWN, 0.0),
    ],
)
def test_what_most_people_found_no_answer_to_has_none(right, given, f1):
    assert score_quac({"right": right}, [given]) == {"f1": f1}


WSC = {
    "text": "Mia thanked Tom because he had helped, and Tom smiled.",
    "span1_text": "Tom",
    "span2_text": "he",
    "span2_index": 4,
    "label": 1,
}


def test_wsc_marks_the_pronoun_and_only_it():
    assert ask_wsc(WSC) == (
        "Passage: Mia thanked Tom because *he* had helped, and Tom smiled.\n"
        'Question: In the passage above, what does the pronoun "*he*" refer to?\nAnswer:'
    )


@pytest.mark.parametrize(
    ("given", "label", "acc"),
    [("Tom", 1, 1), ("old Tom.", 1, 1), ("Mia", 1, 0), ("Tom", 0, 0), ("Mia", 0, 1), ("", 1, 0)],
)
def test_wsc_is_right_where_the_noun_is_said_if_and_only_if_it_is_meant(given, label, acc):
    assert score_wsc({**WSC, "label": label}, [given]) == {"acc": acc}


def test_only_rows_with_a_right_noun_are_shown():
    rows = Dataset.from_list([{**WSC, "label": label} for label in (1, 0, 1)])
    assert keep_positive(rows)["label"] == [1, 1]


def test_rouge_l_by_hand():
    # The longest common subsequence has 3 of 4 and 3 of 5 words: 2 * 3 / 9.
    doc = {"highlights": "the cat saw a dog"}
    assert score_summary(doc, ["cat saw one dog"])["rougeL"] == pytest.approx(2 / 3)
    assert score_tldr({"summary": doc["highlights"]}, ["cat saw one dog"]) == (
        score_summary(doc, ["cat saw one dog"])
    )
