from __future__ import annotations

import http.server
import json
import re
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.records import Prompt
from pipeline.reward_functions import hash_function, load_function

WHERE = "ppo.rewards[0].function"
CODE = """
import functools

def brevity(prompts, completions):
    return [-len(text) for text in completions]

class Judge:
    def __call__(self, prompts, completions):
        return [0.0 for _ in completions]

judge = Judge()
double = functools.partial(brevity)
number = 3
"""


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Return a function that writes a module, and make its folder importable for the test."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name: str, code: str):
        path = tmp_path / f"{name}.py"
        path.write_text(code, encoding="utf-8")
        written.append(name)
        return path

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_the_page_on_rewards_shows_a_function_that_runs(write_module):
    page = Path(__file__).parents[2].joinpath("docs/rewards.md").read_text(encoding="utf-8")
    write_module("my_rewards", page.partition("```python\n")[2].partition("```")[0])
    assert load_function("my_rewards:brevity", WHERE)([None] * 3, ["abc", "", "a b"]) == [-3, 0, -3]


class Judge(http.server.BaseHTTPRequestHandler):
    """Score a conversation by the length of its last turn."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scores = [len(talk[-1]["content"]) for talk in body["conversations"]]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"scores": scores}).encode())

    def log_message(self, *_):
        """Say nothing."""


def test_the_page_on_rewards_shows_how_to_ask_a_server(write_module, monkeypatch):
    page = Path(__file__).parents[2].joinpath("docs/rewards.md").read_text(encoding="utf-8")
    code = page.partition("# served_judge.py")[2].partition("```")[0]
    server = http.server.HTTPServer(("127.0.0.1", 0), Judge)
    write_module("served_judge", code.replace("localhost:8000", f"127.0.0.1:{server.server_port}"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ask = load_function("served_judge:served_judge", WHERE)
        assert ask([Prompt.from_text("Hello"), Prompt.from_text("You")], ["ab", "abcd"]) == [2, 4]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["brevity", "judge", "double", "Judge"])
def test_whatever_can_be_called_is_found(write_module, name):
    write_module("own_rewards", CODE)
    assert load_function(f"own_rewards:{name}", WHERE) is vars(sys.modules["own_rewards"])[name]
    assert re.fullmatch("[0-9a-f]{64}", hash_function(f"own_rewards:{name}", WHERE))


def test_the_working_folder_is_looked_in(tmp_path, monkeypatch):
    folder = tmp_path / "work" / "a_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text("def f(prompts, completions): return completions\n")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_function("a_package.inner:f", WHERE)([], [1]) == [1]
    for name in ("a_package", "a_package.inner"):
        del sys.modules[name]


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("nowhere_at_all:f", "", r"got 'nowhere_at_all:f' \(ModuleNotFoundError: No module named"),
        ("own_rewards:brevty", CODE, r"of own_rewards, got 'brevty'\. Did you mean 'brevity'\?"),
        ("own_rewards:number", CODE, "must name a function of own_rewards, got 'number'"),
        ("own_rewards:f", "x = 1", r"got 'f'\. It has none\."),
        ("own_rewards:f", "1 / 0", r"\(ZeroDivisionError: division by zero\)"),
        ("own_rewards:f", "def f(:", r"\(SyntaxError: "),
        ("own_rewards:f", "raise RuntimeError('a\\nb')", r"\(RuntimeError: a\)"),
    ],
)
def test_what_cannot_be_imported_is_one_line(write_module, path, code, message):
    write_module("own_rewards", code)
    with pytest.raises(ConfigError, match=message) as caught:
        load_function(path, WHERE)
    assert str(caught.value).startswith(f"{WHERE} must name a function")
    assert "\n" not in str(caught.value)


def test_the_hash_follows_the_file_that_the_function_is_written_in(write_module):
    inner = write_module("own_inner", CODE)
    write_module("own_rewards", "from own_inner import brevity, judge\n")
    names = ("own_rewards:brevity", "own_rewards:judge")
    before = [hash_function(name, WHERE) for name in names]
    assert before == [hash_function(name, WHERE) for name in names]
    inner.write_text(CODE.replace("-len", "len"), encoding="utf-8")
    after = [hash_function(name, WHERE) for name in names]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_a_function_that_no_file_holds_is_refused():
    with pytest.raises(ConfigError, match="that a file holds"):
        hash_function("builtins:len", WHERE)
