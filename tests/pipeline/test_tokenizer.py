from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import GPT2Config, LlamaConfig, Qwen2Config

from pipeline.errors import ModelError
from pipeline.tokenizer import (
    BYTE_TOKENS,
    ROLE_TOKENS,
    SPECIAL_TOKENS,
    load_tokenizer,
    train_tokenizer,
)

TEXTS = [
    "Mia has 12 cats.",
    "🦊 and 👩‍👩‍👧 in a boat 🚤",
    "Çağrı İstanbul'da şişe ağacı ıhlamur",  # noqa: RUF001 - Turkish
    "我喜欢猫。你好，世界！",  # noqa: RUF001 - Chinese
    "tab\tnewline\n\nreturn\r\nbell\x07 nul\x00 escape\x1b[31m",
    "literal <0x41> and <0xFF> stay what they are",
    " leading",
    "   three leading",
    "trailing ",
    "trailing   ",
    " ",
    "   ",
    "a  b   c",
    "",
    "\n",
    "\n indented",
    "▁ is itself a character",
    "e\u0301 is not \u00e9, nor \ufb01 fi",
    "\u202eright to left\u202c \u200b zero width",
    "1234567890 ½ ٣ Ⅷ",
    "don't stop-here_now (really)!",
]


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_is_unknown_and_all_come_back(tiny_tokenizer, text):
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text
    assert None not in ids


def test_every_character_of_the_lower_planes_comes_back(tiny_tokenizer):
    for start in range(0, 0x3000, 0x100):
        text = "".join(chr(code) for code in range(start, start + 0x100))
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tiny_tokenizer.decode(ids) == text, hex(start)


def test_a_rare_character_is_spelled_in_bytes(tiny_tokenizer):
    ids = tiny_tokenizer("🦊", add_special_tokens=False)["input_ids"]
    expected = [f"<0x{byte:02X}>" for byte in "🦊".encode()]
    assert tiny_tokenizer.convert_ids_to_tokens(ids)[-4:] == expected


def test_a_written_byte_token_is_text(tiny_tokenizer):
    ids = tiny_tokenizer("<0x41>", add_special_tokens=False)["input_ids"]
    assert "<0x41>" not in tiny_tokenizer.convert_ids_to_tokens(ids)


def test_digits_stand_alone(tiny_tokenizer):
    tokens = tiny_tokenizer.convert_ids_to_tokens(tiny_tokenizer("12 1212")["input_ids"])
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("121212")
    vocabulary = set(tiny_tokenizer.get_vocab()) - set(BYTE_TOKENS)
    assert not [token for token in vocabulary if len(token) > 1 and any(map(str.isdigit, token))]


def test_a_document_begins_with_its_token(tiny_tokenizer):
    assert tiny_tokenizer("Mia")["input_ids"][0] == tiny_tokenizer.bos_token_id
    assert tiny_tokenizer.pad_token_id != tiny_tokenizer.eos_token_id


def test_special_and_byte_tokens_come_first(tiny_tokenizer):
    wanted = [*SPECIAL_TOKENS, *BYTE_TOKENS]
    assert tiny_tokenizer.convert_ids_to_tokens(range(len(wanted))) == wanted
    for token in ROLE_TOKENS:
        assert tiny_tokenizer(token, add_special_tokens=False)["input_ids"] == [
            tiny_tokenizer.convert_tokens_to_ids(token)
        ]


@pytest.mark.parametrize("size", [300, 320, 400])
def test_the_vocabulary_fits(size):
    text = "the quick brown fox jumps over the lazy dog " * 3
    assert len(train_tokenizer([text, text.upper(), text.title()] * 3, size)) <= size


def test_training_is_deterministic():
    texts = ["the cat sees the dog", "a cat and a dog, 12 foxes"] * 5
    first, second = (train_tokenizer(texts, 350) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()


def test_merges_are_learned(tiny_tokenizer):
    assert len(tiny_tokenizer("Tom lives in the town.", add_special_tokens=False)["input_ids"]) < 12


def test_a_saved_tokenizer_loads_in_a_process_without_this_project(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    text = "🦊 Çağ 我 12 <0x41> "
    program = (
        "import sys; from transformers import AutoTokenizer; "
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]); "
        "assert 'pipeline' not in sys.modules; "
        "ids = tokenizer(sys.argv[2])['input_ids']; "
        "assert tokenizer.decode(ids, skip_special_tokens=True) == sys.argv[2]; "
        "chat = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]; "
        "print(ids); print(repr(tokenizer.apply_chat_template(chat, tokenize=False)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, tmp_path, text],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    ids, chat = done.stdout.splitlines()
    assert ids == str(tiny_tokenizer(text)["input_ids"])
    assert chat == repr("<|bos|><|user|>a<|eos|><|assistant|>b<|eos|>")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match="No tokenizer could be loaded from") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [GPT2Config, LlamaConfig, Qwen2Config])
def test_a_models_folder_without_a_tokenizer_is_refused(kind, tmp_path):
    kind().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="No tokenizer could be loaded from") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
