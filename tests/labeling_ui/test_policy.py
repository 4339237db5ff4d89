from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from labeling_ui.policy import GradioPolicy, gradio_policy, is_gradio


def directives(policy: str) -> dict[str, list[str]]:
    parts = (part.split() for part in policy.split(";"))
    return {name: values for name, *values in parts}


def hash_of(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def test_gradios_page_runs_its_own_inline_scripts_and_no_others(
    client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "ada")
    for path in ("/label/", "/lab/"):
        answer = client.get(path)
        rules = directives(answer.headers["content-security-policy"])
        inline = re.findall(r"<script(?: data-[\w-]+)?>(.*?)</script>", answer.text, re.DOTALL)
        assert len(inline) == 5
        assert any("gradio_config" in script for script in inline)
        allowed = ["'self'", "'unsafe-eval'", *map(hash_of, inline)]
        assert rules["script-src"] == allowed
        assert rules["connect-src"] == rules["form-action"] == rules["base-uri"] == ["'self'"]
        assert rules["object-src"] == rules["frame-src"] == rules["frame-ancestors"] == ["'none'"]
        assert not [word for words in rules.values() for word in words if "http" in word]
        assert "*" not in answer.headers["content-security-policy"]
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_the_lab_has_a_script_before_gradios(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "ada")
    own = '<script type="module" src="/static/lab/lab.js"></script>'
    assert client.get("/lab/").text.partition("<head>")[2].startswith(own)
    assert own not in client.get("/label/").text
    assert client.get("/static/lab/lab.js").status_code == 200


def test_scripts_of_files_need_no_hash() -> None:
    page = b'<script src="/a.js"></script><script type="module" crossorigin src="b.js"></script>'
    assert "sha256" not in gradio_policy(page)
    assert gradio_policy(page + b"<script>go()</script>").count("sha256") == 1
    assert hash_of("go()") in gradio_policy(b"<script data-src-x>go()</script>")


@pytest.mark.parametrize(
    "chunks", [[b"<script>go()</script>"], [b"<scr", b"ipt>go()</", b"script>"]]
)
def test_a_page_is_held_until_it_is_whole(chunks: list[bytes]) -> None:
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        policy = GradioPolicy(keep)
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        await policy({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            assert sent == []
            await policy({"type": "http.response.body", "body": chunk, "more_body": True})
        await policy({"type": "http.response.body"})

    asyncio.run(run())
    start, body = sent
    assert body == {"type": "http.response.body", "body": b"".join(chunks)}
    header = dict(start["headers"])[b"content-security-policy"].decode()
    assert hash_of("go()") in header


@pytest.mark.parametrize(
    ("path", "answer"),
    [("/label", 1), ("/label/x", 1), ("/lab/", 1), ("/labels", 0), ("/", 0), ("/api/lab/x", 0)],
)
def test_gradios_paths(path: str, answer: int) -> None:
    assert is_gradio(path) == bool(answer)
