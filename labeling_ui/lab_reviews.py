"""Show the answers that labelers wrote, and take the lead's reviews."""

from __future__ import annotations

from typing import Any

import gradio as gr

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_cards import Card, card, prompt_cards, text_cards
from labeling_ui.lab_fill import Fill, choices
from labeling_ui.lab_tables import TIME, excerpt, ticked
from pipeline.errors import StoreError
from pipeline.store.accounts import Account
from pipeline.store.answers import VERDICTS, Answer
from pipeline.store.values import RATINGS

WAITING = "waiting"


def build_reviews(lab: Lab) -> Fill:
    """Return what the page of reviews shows."""
    which = gr.Radio([WAITING, *VERDICTS], value=WAITING, label="Show")
    count = gr.Textbox(label="Answers", interactive=False)
    chosen = gr.Dropdown(label="Answer", choices=[])
    cards = text_cards()
    with gr.Row():
        verdict = gr.Radio(list(VERDICTS), label="Verdict")
        score = gr.Radio([str(number) for number in RATINGS], label="Score, 7 is the best")
    comment = gr.Textbox(label="What to change, or why")
    save = gr.Button("Save the review", variant="primary")
    outputs = (count, chosen, cards, verdict, score, comment)

    def show_list(lead: Account, wanted: str) -> tuple[Any, ...]:
        del lead
        found = [one for one in lab.oversight.answers() if _state(one) == wanted]
        listed = [(_describe(one), one.id) for one in found]
        first = found[0] if found else None
        return f"{len(found)} {wanted}", choices(listed, first.id if first else None), *_show(first)

    def show_answer(lead: Account, number: int | None) -> tuple[Any, ...]:
        del lead
        return _show(_find(lab, number))

    def save_review(
        lead: Account,
        wanted: str,
        number: int | None,
        said: str | None,
        given: str | None,
        why: str,
    ) -> tuple[Any, ...]:
        if said is None:
            raise StoreError("A verdict must be chosen, got none. Choose one of the three.")
        answer = _find(lab, number)
        lab.oversight.review(answer.id, lead.id, said, int(given) if given else None, why)
        tell(f"The answer is {said}.")
        return show_list(lead, wanted)

    lab.bind(which.input, show_list, (which,), outputs)
    lab.bind(chosen.input, show_answer, (chosen,), outputs[2:])
    lab.bind(save.click, save_review, (which, chosen, verdict, score, comment), outputs)
    return Fill(show_list, outputs, (which,))


def answer_cards(answer: Answer) -> list[Card]:
    """Return the prompt and the answer."""
    notes = [
        f"{answer.labeler} ({answer.group}) on {answer.created.strftime(TIME)}, "
        f"revision {answer.revision}, for {answer.purpose}",
        f"Note: {answer.comment}" if answer.comment else "",
        f"Prompt: {ticked(answer.prompt_flags)}" if answer.prompt_flags else "",
        "Their work is removed from training." if answer.excluded else "",
    ]
    return [*prompt_cards(answer.prompt), card("Answer", answer.text, notes)]


def _show(answer: Answer | None) -> tuple[Any, ...]:
    """Return the cards of an answer, and its newest review to fill the form."""
    if answer is None:
        return [], None, None, ""
    review = answer.review
    if review is None:
        return answer_cards(answer), None, None, ""
    score = None if review.score is None else str(review.score)
    return answer_cards(answer), review.verdict, score, review.comment


def _state(answer: Answer) -> str:
    return WAITING if answer.review is None else answer.review.verdict


def _find(lab: Lab, number: int | None) -> Answer:
    found = next((one for one in lab.oversight.answers() if one.id == number), None)
    if found is None:
        raise StoreError("The answer must be the newest revision, but it is not. Open it again.")
    return found


def _describe(answer: Answer) -> str:
    return f"{answer.labeler}: {excerpt(answer.prompt.messages[-1]['content'], 60)}"
