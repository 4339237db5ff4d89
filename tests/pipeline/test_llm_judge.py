from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.llm_judge as judge_module
from pipeline.config.win_rates import JudgeSection
from pipeline.errors import ConfigError, JudgeError
from pipeline.llm_judge import (
    LlmJudge,
    Pair,
    Question,
    read_template,
    read_verdict,
    render,
    write_prompt,
)
from tests.pipeline.judge_server import JudgeServer, Reply, read_answers, refuse, say, serve

WHERE = "evaluate.win_rates.judge"
PAIRS = [Pair("Say a.", "a" * (i + 1), "b" * 4) for i in range(8)]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "FIRST_WAIT", 0.01)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serve(JudgeServer()) as listening:
        yield listening


@pytest.fixture
def ask(server: JudgeServer, tmp_path: Path):
    def asked(pairs=PAIRS, **fields: object):
        section = JudgeSection(**{"url": server.url, "model": "m", "retries": 2, **fields})
        with LlmJudge(section, WHERE, tmp_path / "verdicts.jsonl") as judge:
            return judge.compare(pairs)

    return asked


def test_both_orders_are_asked_and_a_judge_of_answers_agrees_with_itself(server, ask):
    found = ask()
    assert [one.preference for one in found] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert found[0].first == (0.0, 1.0)
    assert found[3].first == (0.5, 0.5)
    shown = [read_answers(body) for body in server.asked]
    assert sorted(shown) == sorted(
        order for pair in PAIRS for order in ((pair.ours, pair.theirs), (pair.theirs, pair.ours))
    )
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 16)
    assert "Say a." in body["messages"][0]["content"]
    assert server.paths == {"/v1/chat/completions"}
    assert "Authorization" not in server.headers


def test_a_judge_of_places_gives_ties_and_is_seen_to(server, ask):
    server.answer = lambda _: say("[[A]]")
    assert {(one.preference, one.first) for one in ask()} == {(0.5, (1.0, 1.0))}


def test_a_preference_in_one_order_and_a_tie_in_the_other_is_a_tie(server, ask):
    server.answer = lambda body: say("[[A]]" if read_answers(body)[0] == "a" else "[[tie]]")
    (found,) = ask(PAIRS[:1])
    assert (found.preference, found.first) == (0.5, (1.0, 0.5))


def test_equal_answers_tie_unasked_and_equal_questions_are_asked_once(server, ask):
    same, other = Pair("p", "x", "x"), Pair("p", "x", "y")
    found = ask([same, other, other, Pair("p", "y", "x")])
    assert [one.preference for one in found] == [0.5, 0.5, 0.5, 0.5]
    assert found[0].first == ()
    assert len(server.asked) == 2


def test_what_was_judged_is_not_asked_again_until_something_changes(server, ask, tmp_path):
    first = ask()
    assert len(server.asked) == 16
    assert ask() == first
    assert len(server.asked) == 16
    ask(model="another")
    assert len(server.asked) == 32
    template = tmp_path / "t.txt"
    own = read_template(None, WHERE)
    template.write_text(own + "\nBe strict.", encoding="utf-8")
    ask(template=str(template))
    assert len(server.asked) == 48
    assert "Be strict." in server.asked[-1]["messages"][0]["content"]
    ask([Pair("Say b.", *PAIRS[0][1:])])
    assert len(server.asked) == 50


def test_failures_that_pass_are_tried_again(server, ask):
    failures = [
        refuse(429, retry_after="0.01"),
        refuse(500),
        Reply(b"<html>busy</html>"),
        Reply(b'{"choices": []}'),
        refuse(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
    ]
    kept = server.answer
    server.answer = lambda body: failures.pop() if failures else kept(body)
    assert [one.preference for one in ask(PAIRS[:2], retries=5, concurrency=1)] == [0.0, 0.0]
    assert len(server.asked) == 4 + 5


def test_a_server_that_stays_down_is_named_and_what_was_judged_is_kept(server, ask):
    kept = server.answer

    def answer(body):
        return kept(body) if len(server.asked) <= 6 else refuse(503, "out of memory")

    server.answer = answer
    with pytest.raises(JudgeError) as caught:
        ask(concurrency=1)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{WHERE}.url must answer, got status 503")
    assert "out of memory" in said
    assert server.url in said
    assert "after 3 attempts" in said
    assert said.endswith("6 verdicts are kept.")
    asked = len(server.asked)
    assert asked == 6 + 3
    server.answer = kept
    assert len(ask()) == 8
    assert len(server.asked) == asked + 10


def test_nobody_listening_is_said_in_one_line(ask):
    with pytest.raises(JudgeError, match=r"must answer, got ConnectError.*127\.0\.0\.1:9/v1"):
        ask(url="http://127.0.0.1:9/v1", retries=1)


def test_a_server_that_is_too_slow_is_tried_again(server, ask):
    waiting = threading.Event()
    kept, slow = server.answer, [True]

    def answer(body):
        if slow:
            slow.pop()
            waiting.wait(5)
        return kept(body)

    server.answer = answer
    try:
        (found,) = ask(PAIRS[:1], timeout=1.0, concurrency=1)
    finally:
        waiting.set()
    assert found.preference == 0.0
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_refusal_ends_at_once(server, ask, status):
    server.answer = lambda _: refuse(status, f"no such\nmodel {status}")
    with pytest.raises(JudgeError, match=rf"accepts, got status {status}: .*no such") as caught:
        ask(concurrency=1)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_replies_without_one_verdict_count_as_none(server, ask, tmp_path):
    server.answer = lambda _: say("A is better")
    assert ask(PAIRS[:2]) == [None, None]
    # Twice each, and not kept: another day the model may know better.
    assert len(server.asked) == 8
    assert not (tmp_path / "verdicts.jsonl").exists()
    server.answer = lambda _: Reply(b'{"choices": [{"message": {"content": null}}]}')
    assert ask(PAIRS[:1]) == [None]


def test_silence_is_no_failure_and_failures_are_no_silence(server, ask):
    """Two replies without a verdict whatever the retries are, and all retries at each of them."""
    server.answer = lambda _: say("A is better")
    assert ask(PAIRS[:1], retries=0) == [None]
    assert len(server.asked) == 4
    replies = [say("hm"), refuse(503), say("[[A]]"), refuse(503), say("[[B]]")]
    server.answer = lambda _: replies.pop(0)
    (found,) = ask(PAIRS[:1], retries=1, concurrency=1)
    assert found.first == (1.0, 0.0)
    assert replies == []


def test_an_address_that_cannot_be_one_is_one_line(ask):
    with pytest.raises(JudgeError, match=r"judge\.url must be an address, got 'http://a\.\.b/v1'"):
        ask(url="http://a..b/v1", retries=0)


def test_no_more_requests_than_asked_for_are_under_way(server, ask):
    meeting, kept = threading.Barrier(3), server.answer

    def answer(body):
        meeting.wait(30)
        return kept(body)

    server.answer = answer
    ask(PAIRS[:6], concurrency=3)
    assert server.most == 3


def test_the_key_is_sent_and_stands_nowhere_else(server, ask, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-17")
    caplog.set_level("DEBUG")
    server.answer = lambda _: say("[[A]] for sk-secret-17")
    ask(PAIRS[:1], api_key_env="JUDGE_KEY")
    assert server.headers["Authorization"] == "Bearer sk-secret-17"
    server.answer = lambda _: refuse(401, "Incorrect API key provided: sk-secret-17")
    with pytest.raises(JudgeError, match=r"Incorrect API key provided: \*\*\*"):
        ask(PAIRS[1:2], api_key_env="JUDGE_KEY")
    server.answer = lambda _: refuse(500, "sk-secret-17")
    with pytest.raises(JudgeError, match=r"\*\*\*"):
        ask(PAIRS[1:2], api_key_env="JUDGE_KEY", retries=0)
    assert "sk-secret" not in caplog.text
    for file in tmp_path.rglob("*"):
        assert "sk-secret" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [None, " ", "two\nlines", "schl\u00fcssel"])
def test_a_key_that_is_not_there_or_no_header_is_refused(ask, monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(
        ConfigError, match=r"api_key_env must name a variable .*'JUDGE_KEY'"
    ) as caught:
        ask(api_key_env="JUDGE_KEY")
    assert value is None or not value.strip() or value not in str(caught.value)


def test_a_template_must_hold_what_is_compared(tmp_path):
    file = tmp_path / "t.txt"
    with pytest.raises(ConfigError, match=r"template must be a text file"):
        read_template(str(file), WHERE)
    file.write_text("{prompt} {first}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"without \{second\}\. Add"):
        read_template(str(file), WHERE)


def test_answers_that_look_like_fields_stay_as_they_are():
    question = Question("{second}", "{prompt} {0}", "\\1 {first}")
    assert render("<{prompt}|{first}|{second}|{other}>", question) == (
        "<{second}|{prompt} {0}|\\1 {first}|{other}>"
    )


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("[[A]]", "first"),
        ("Because it is true: [[b]]\n", "second"),
        ("[[TIE]] [[tie]]", "tie"),
        ("A", None),
        ("[[A]] or [[B]]", None),
        ("[[C]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_strictly(reply, verdict):
    assert read_verdict(reply) == verdict


def test_a_conversation_is_written_with_its_roles():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert write_prompt(turns[:1]) == "Hi"
    assert write_prompt(turns) == "user: Hi\n\nassistant: Yes?"


def test_text_that_is_no_unicode_can_be_judged(server, ask):
    (found,) = ask([Pair("p", "half \ud83d", "x")])
    assert found.preference == 1.0
    assert any("half \ud83d" in body["messages"][0]["content"] for body in server.asked)
