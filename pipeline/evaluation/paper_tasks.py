"""Ask and score the tasks of InstructGPT's appendix D that lm_eval asks or scores otherwise.

* SQuADv2: F1 and exact match a question, as its official evaluation defines them (Rajpurkar et al.
  2018), computed here so that every document has a figure of its own and stages can be paired.
* QuAC: a question stands after those before it in its dialog, with the answers that people gave
  (Ouyang et al. 2022, figure 19). F1 as Choi et al. 2018 define it: the best over people's answers,
  averaged over leaving one of these out; where no fewer of them found no answer, there is none.
* WSC: the noun is sampled; it answers "yes" where it holds the asked noun or the asked noun it
  (Ouyang et al. 2022, figure 24).
* CNN/Daily Mail, and Reddit posts: ROUGE-L against the highlights, the summary (Lin 2004).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

NOT_THERE = "Not in background."
NOT_KNOWN = "I don't know."
_NO_SPAN = "CANNOTANSWER"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ROUGE = "rougeL"


def answer_squad(doc: Mapping[str, Any]) -> str:
    """Return the first right answer, or that there is none."""
    answers = doc["answers"]["text"]
    return str(answers[0]) if answers else NOT_THERE


def score_squad(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return the best F1 and exact match over the right answers."""
    given = results[0]
    right = doc["answers"]["text"] or [""]
    if normalize_answer(given) == normalize_answer(NOT_THERE):
        given = ""
    return {
        "f1": max(token_f1(given, answer) for answer in right),
        "exact_match": float(
            any(normalize_answer(given) == normalize_answer(answer) for answer in right)
        ),
    }


def split_dialogs(dataset: Dataset) -> Dataset:
    """Return a row a question of QuAC, with what was said before it in its dialog."""
    return Dataset.from_list([turn for dialog in dataset for turn in _turns(dialog)])


def keep_dialogs(dataset: Dataset) -> Dataset:
    """Return a row a dialog of QuAC: its last question with all before it."""
    return Dataset.from_list([_turns(dialog)[-1] for dialog in dataset])


def _turns(dialog: Mapping[str, Any]) -> list[dict[str, Any]]:
    background = {
        "title": f"{dialog['wikipedia_page_title']} -- {dialog['section_title']}",
        # The data set ends each text with the word that stands for no answer.
        "paragraph": str(dialog["context"]).removesuffix(_NO_SPAN).rstrip(),
    }
    said = zip(
        *(dialog["questions"], dialog["orig_answers"]["texts"], dialog["answers"]["texts"]),
        strict=True,
    )
    turns: list[dict[str, Any]] = []
    before = ""
    for question, given, right in said:
        turn = {"before": before, "question": question, "answer": _say(given)}
        turns.append({**background, **turn, "right": [_say(answer) for answer in right]})
        before += f"Q: {question}\n\nA: {turn['answer']}\n\n"
    return turns


def _say(answer: str) -> str:
    return NOT_KNOWN if answer == _NO_SPAN else answer


def score_quac(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return F1 against people's answers.

    F1 = mean_i max_{j != i} F1(given, answer_j); of a single answer, F1 with it
    """
    unknown = normalize_answer(results[0]) == normalize_answer(NOT_KNOWN)
    right = [answer for answer in doc["right"] if answer != NOT_KNOWN]
    if 2 * len(right) <= len(doc["right"]):
        return {"f1": float(unknown)}
    if unknown:
        return {"f1": 0.0}
    scores = sorted((token_f1(results[0], answer) for answer in right), reverse=True)
    # The best answer is left out once, and the second best counts then.
    left = [scores[0]] * (len(scores) - 1) + scores[1:2]
    return {"f1": sum(left or scores) / len(scores)}


def token_f1(given: str, right: str) -> float:
    """Return the F1 of the words two answers share; of two answers without words, 1.

    F1 = 2 * shared / (words given + words right)
    """
    ours, theirs = normalize_answer(given).split(), normalize_answer(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and further blanks."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def ask_wsc(doc: Mapping[str, Any]) -> str:
    """Return the passage with its pronoun marked, and the question whom it stands for."""
    words = str(doc["text"]).split()
    pronoun, place = str(doc["span2_text"]), int(doc["span2_index"])
    words[place] = words[place].replace(pronoun, f"*{pronoun}*", 1)
    return (
        f"Passage: {' '.join(words)}\n"
        f'Question: In the passage above, what does the pronoun "*{pronoun}*" refer to?\nAnswer:'
    )


def score_wsc(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the sampled noun says of the asked one what is true of it."""
    given, noun = normalize_answer(results[0]), normalize_answer(doc["span1_text"])
    same = bool(given) and (noun in given or given in noun)
    return {"acc": float(same == bool(doc["label"]))}


def keep_positive(dataset: Dataset) -> Dataset:
    """Return the rows whose noun is the one that the pronoun stands for."""
    return dataset.filter(lambda row: row["label"] == 1)


def score_summary(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return ROUGE-L's F1 against the highlights."""
    scored = RougeScorer([_ROUGE]).score(doc["highlights"], results[0])
    return {_ROUGE: float(scored[_ROUGE].fmeasure)}


def score_tldr(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return ROUGE-L's F1 against the summary that the post's author gave."""
    return score_summary({"highlights": doc["summary"]}, results)
