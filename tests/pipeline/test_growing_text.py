from __future__ import annotations

from pipeline.growing_text import GrowingText, spell


def test_a_character_of_several_tokens_is_shown_when_it_is_whole(tiny_formatter):
    ids = tiny_formatter.completion_ids("Tom 😀 é  ok")
    growing = GrowingText(tiny_formatter)
    pieces = [growing.add(token, last=False) for token in ids]
    assert "".join(pieces) == "Tom 😀 é  ok"
    assert any("😀" in piece for piece in pieces)
    assert "\ufffd" not in "".join(pieces)


def test_what_is_kept_back_comes_with_the_last_token(tiny_formatter):
    ids = tiny_formatter.completion_ids("Tom 😀")[:-2]
    growing = GrowingText(tiny_formatter)
    pieces = [growing.add(token, last=place == len(ids) - 1) for place, token in enumerate(ids)]
    assert "".join(pieces) == tiny_formatter.decode(ids)
    assert pieces[-1].endswith("\ufffd")


def test_a_token_is_spelled_as_it_would_be_added(tiny_formatter):
    tokenizer = tiny_formatter.tokenizer
    ids = tokenizer("Mia has a cat.", add_special_tokens=False)["input_ids"]
    spelled = [spell(tokenizer, ids[:place], token) for place, token in enumerate(ids)]
    assert "".join(spelled) == "Mia has a cat."
    assert spell(tokenizer, ids, tiny_formatter.end_id) == "<|eos|>"
