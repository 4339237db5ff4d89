from __future__ import annotations

import copy

import pytest

from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.formatting import Formatter, drop_special_tokens, render_chat
from pipeline.records import Prompt

TALKS = [
    [("user", "Where does Mia live?"), ("assistant", "the forest.")],
    [("system", "Be short."), ("user", "Hello"), ("assistant", " Hello Mia, how are you? ")],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    [("user", "🦊\n\n"), ("assistant", "1\n2\n"), ("user", ""), ("assistant", "İyi 我")],
]
REWRITING = (
    "{% for m in messages %}{{ '<|user|>' if m['role'] == 'user' else '<|assistant|>' }}"
    "{% if loop.last or m['role'] == 'user' %}{{ m['content'] }}{% endif %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def messages(talk):
    return [{"role": role, "content": content} for role, content in talk]


@pytest.fixture
def with_template(tiny_tokenizer):
    def change(template: str | None):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return change


@pytest.mark.parametrize("talk", TALKS)
def test_segments_make_up_the_rendered_chat(tiny_formatter, talk):
    turns = messages(talk)
    while turns[-1]["role"] != "assistant":
        turns.pop()
    encoded = tiny_formatter.conversation(turns)
    rendered = tiny_formatter.tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    assert tiny_formatter.tokenizer.decode(encoded.ids) == tiny_formatter.tokenizer.decode(
        rendered["input_ids"]
    )
    assert encoded.ids == rendered["input_ids"]
    assert encoded.mask == [bool(part) for part in rendered["assistant_masks"]]


@pytest.mark.parametrize("talk", TALKS)
def test_prompt_and_completion_make_up_the_conversation(tiny_formatter, talk):
    turns = messages(talk)
    while turns[-1]["role"] != "assistant":
        turns.pop()
    prompt = tiny_formatter.prompt_ids(turns[:-1])
    completion = tiny_formatter.completion_ids(turns[-1]["content"])
    encoded = tiny_formatter.conversation(turns)
    assert prompt + completion == encoded.ids
    assert encoded.mask[len(prompt) :] == [True] * len(completion)
    assert not encoded.mask[len(prompt) - 1]


@pytest.mark.parametrize("text", ["the forest.", " spaces ", "1\n2", "🦊", ""])
def test_the_mask_is_what_the_assistant_wrote(tiny_formatter, text):
    encoded = tiny_formatter.conversation(messages([("user", "Say it"), ("assistant", text)]))
    written = [token for token, kept in zip(*encoded, strict=True) if kept]
    assert written[-1] == tiny_formatter.end_id
    assert tiny_formatter.decode(written) == text


def test_every_assistant_turn_is_in_the_mask(tiny_formatter):
    talk = [("user", "a"), ("assistant", "cat"), ("user", "b"), ("assistant", "dog")]
    encoded = tiny_formatter.conversation(messages(talk))
    starts = sum(
        now and not before
        for before, now in zip([False, *encoded.mask], encoded.mask, strict=False)
    )
    assert starts == 2
    ends = [token == tiny_formatter.end_id for token in encoded.ids]
    assert sum(e and m for e, m in zip(ends, encoded.mask, strict=True)) == 2


def test_a_completion_is_cut_at_its_end_and_without_padding(tiny_formatter):
    ids = tiny_formatter.completion_ids("a cat")
    padded = [*ids, tiny_formatter.pad_id, *tiny_formatter.completion_ids("x")]
    assert tiny_formatter.decode(padded) == "a cat"
    assert tiny_formatter.decode([*ids[:-1], tiny_formatter.pad_id]) == "a cat"


def test_padding_is_never_the_end(tiny_formatter, with_template):
    assert tiny_formatter.pad_id != tiny_formatter.end_id
    tokenizer = with_template(tiny_formatter.tokenizer.chat_template)
    tokenizer.pad_token = tokenizer.eos_token
    assert Formatter(tokenizer).pad_id != Formatter(tokenizer).end_id


def test_a_document_ends_once(tiny_formatter):
    ids = tiny_formatter.document_ids("Mia")
    tokenizer = tiny_formatter.tokenizer
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids.count(tokenizer.eos_token_id) == 1


def test_a_tokenizer_without_template_is_refused(with_template):
    with pytest.raises(ModelError, match="must have a chat template, got none"):
        Formatter(with_template(None))


def test_a_template_that_ends_no_turn_is_refused(with_template):
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ModelError, match="must end an assistant's turn with a special token"):
        Formatter(with_template(plain + "{% if add_generation_prompt %}assistant: {% endif %}"))


def test_a_template_that_rewrites_earlier_turns_is_refused(with_template):
    formatter = Formatter(with_template(REWRITING))
    single = messages([("user", "a"), ("assistant", "b")])
    assert formatter.decode(formatter.conversation(single).ids[-2:]).strip() == "b"
    talk = messages([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")])
    with pytest.raises(ModelError, match="must append each turn unchanged"):
        formatter.conversation(talk)


def test_a_prompt_that_leaves_no_room_is_named(tiny_formatter):
    prompts = [
        Prompt.from_text(text)
        for text in ("Mia", "Where does Mia live in the forest?", "Where does Mia live?")
    ]
    encoded = [tiny_formatter.prompt_ids(prompt.messages) for prompt in prompts]
    short, long, middle = map(len, encoded)
    assert short < middle < long
    assert tiny_formatter.check_lengths(prompts, long, "sample") == encoded
    said = (
        rf"sample: .* at most {short} tokens .* got {long} at prompt {prompts[1].id} "
        r"\('Where does Mia live in the forest\?'\.\.\.\), the longest of 2 among 3\."
    )
    with pytest.raises(DataError, match=said):
        tiny_formatter.check_lengths(prompts, short, "sample")
    with pytest.raises(ConfigError, match=r"max_new_tokens must leave room .* got 4 too many\."):
        tiny_formatter.check_lengths(prompts, -3, "sample")


def test_a_template_that_refuses_a_conversation_is_one_line(with_template):
    tokenizer = with_template("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ModelError, match="got 'roles must alternate'"):
        render_chat(tokenizer, messages(TALKS[0]))


def test_no_special_token_is_left_however_it_is_nested(tiny_tokenizer):
    assert drop_special_tokens(tiny_tokenizer, "a <s> <|x|> b") == "a <s> <|x|> b"
    assert drop_special_tokens(tiny_tokenizer, "a<|eos|>b<|us<|pad|>er|>c") == "abc"
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<turn>"], special_tokens=True)
    tokenizer.add_tokens(["word"])
    # One that the map of special tokens does not name, and one that is not special.
    assert drop_special_tokens(tokenizer, "a<turn>word") == "aword"
