from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from pipeline.cards import quote, write_card
from pipeline.runs import Manifest

HOSTILE = [
    "<script>alert(1)</script>",
    "![x](http://evil.example/p.png)",
    "[x](javascript:alert(1))",
    "http://evil.example www.evil.example me@evil.example",
    "`<img src=x onerror=alert(1)>`",
    "``` </code><b>`",
    "`",
    "``",
    "a\n\n# heading\n\n<b>",
    "---\nlicense: mit\n---",
    "\u202etxt\x00\x1b[31m",
    "&lt;b&gt; | cell",
    " ",
    "",
    "\\`*_{}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_everywhere(text):
    card = write_card(
        Manifest(text, "running", 0, "abc", {text: text}, {text: text}, device=text),
        origin={text: text},
        settings={text: text},
        metrics={text: text},
    )
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert front.splitlines()[0] == "library_name: transformers"
    assert "license" not in front
    tokens = MarkdownIt("commonmark", {"html": True}).parse(body)
    kinds = {child.type for token in tokens for child in [token, *(token.children or [])]}
    assert not kinds & {"html_block", "html_inline", "image", "link_open"}
    headings = [token for token in tokens if token.type == "heading_open"]
    assert [token.tag for token in headings] == ["h1", "h2", "h2", "h2", "h2", "h2"]


@pytest.mark.parametrize("text", ["plain", "a`b``c", "`start", "end`", "x|y", "<b>&amp;"])
def test_a_quoted_value_reads_as_it_is(text):
    (paragraph,) = [t for t in MarkdownIt().parse(quote(text)) if t.type == "inline"]
    (code,) = paragraph.children
    assert (code.type, code.content) == ("code_inline", text)


def test_a_long_value_is_cut():
    assert len(quote("x" * 5000)) < 400


def test_a_card_leads_back_to_what_the_model_was_made_from():
    made = Manifest("sft", "running", 7, "c0ffee", {"pretrain": "ab12"}, {"data.jsonl": "cd34"})
    card = write_card(made, origin={"base": "org/model"}, metrics={"loss": 0.5, "table": [1]})
    for part in ("`sft`", "`7`", "`ab12`", "data.jsonl`", "`cd34`", "`org/model`", "c0ffee"):
        assert part in card
    assert "table" not in card
    assert "AutoModelForCausalLM.from_pretrained" in card


def test_a_reward_models_card_tells_its_offset():
    card = write_card(Manifest("reward", "running", 0, ""), kind="reward", score_offset=-1.25)
    assert "AutoModelForSequenceClassification" in card
    assert "`config.score_offset` (-1.25)" in card
