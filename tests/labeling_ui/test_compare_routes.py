from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from starlette.testclient import TestClient

from labeling_ui.app import Parts
from labeling_ui.compare_bench import (
    LOOKING,
    LOOKS,
    STREAMS,
    Bench,
    BusyError,
    Turns,
    whole_prompt,
)
from labeling_ui.compare_routes import (
    COMPARE_FAILURES,
    PREFIX,
    compare_routes,
    describe_event,
    write_line,
)
from pipeline import serving_process
from pipeline.models import save_model
from pipeline.records import Prompt
from pipeline.regression_set import RegressionSet
from pipeline.runs import checkpoint_path
from pipeline.serving import ModelServer
from pipeline.serving_messages import Failed, Loading, ServingSettings, Token
from pipeline.store.accounts import Accounts
from tests.labeling_ui.browsers import GOOD, SCRIPT, lab_page, label_page
from tests.labeling_ui.pages import Page
from tests.run_folders import add_lines, write_stage

WHY = [{"role": "user", "content": "Where does Tom live?"}]
MIA = Prompt(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}))
ASKED = {"messages": WHY, "models": ["tiny/sft"], "temperature": 0.0, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with ModelServer(ServingSettings(threads=1, device="cpu")) as server:
        yield server


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, reward_folder: Path):
    """Return a run with a base, a tuned policy and a reward model; another run lies beside it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    write_stage(run, "pretrain", model=policy_folder, log=[{"step": 1, "loss": 2.0}])
    write_stage(run, "sft", ["pretrain"], model=policy_folder, sources={"tiny:x": "1"})
    write_stage(run, "reward", ["sft"], model=reward_folder)
    write_stage(run, "ppo", ["sft", "reward"], status="running")
    checkpoint = checkpoint_path(run / "ppo", 40) / "policy"
    shutil.copytree(policy_folder, checkpoint, ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    add = {**MIA.to_log(), "completion": "Here.", "step": 1}
    (run / "sft" / "samples.jsonl").write_text(json.dumps(add) + "\n" + json.dumps(add) + "\n")
    (run / "pretrain" / "samples.jsonl").write_text('{"prompt": "Once there", "step": 1}\n')
    write_stage(run.parent / "other", "sft", status="failed", error="RunError: no")
    return run


@pytest.fixture
def bench(run_dir: Path, tmp_path: Path, models: ModelServer) -> Bench:
    """Return a bench whose regression set is the test's own."""
    made = Bench.over(run_dir, models)
    return Bench(made.index, RegressionSet.of_run(tmp_path), models)


@pytest.fixture
def parts(bench: Bench) -> Parts:
    return Parts(label_page, lab_page, (compare_routes(bench),), COMPARE_FAILURES)


@pytest.fixture
def lead(make_client: Callable[..., TestClient], sign_in: Callable) -> TestClient:
    browser = make_client(gradio=False)
    sign_in(browser, "ada")
    browser.headers.update(SCRIPT)
    return browser


def ask(lead: TestClient, **changes: Any) -> list[dict[str, Any]]:
    answer = lead.post(f"{PREFIX}/answers", json={**ASKED, **changes})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines() if line]


def refused(lead: TestClient, path: str, body: dict[str, Any]) -> str:
    answer = lead.post(PREFIX + path, json=body)
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert told["code"] == "refused"
    assert "\n" not in told["error"]
    return str(told["error"])


PATHS = [
    *(("get", path) for path in ("/runs", "/models", "/prompts", "/report?run=tiny")),
    ("get", "/report.html?run=tiny"),
    *(("post", path) for path in ("/prompts", "/answers", "/next", "/metrics")),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_labeler_gets_403_and_a_stranger_401(
    method: str, path: str, make_client: Callable[..., TestClient], sign_in: Callable
) -> None:
    browser = make_client(gradio=False)
    more = {"json": {}} if method == "post" else {}
    assert getattr(browser, method)(PREFIX + path, headers=SCRIPT, **more).status_code == 401
    sign_in(browser, "bob")
    answer = getattr(browser, method)(PREFIX + path, headers=SCRIPT, **more)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_runs_and_models_are_told(lead: TestClient) -> None:
    told = lead.get(f"{PREFIX}/runs").json()
    assert told["own"] == "tiny"
    other, tiny = told["runs"]
    assert (other["name"], other["stages"][0]["error"]) == ("other", "RunError: no")
    assert [stage["name"] for stage in tiny["stages"]] == ["pretrain", "sft", "reward", "ppo"]
    assert tiny["stages"][1]["parents"] == {"pretrain": True}
    models = lead.get(f"{PREFIX}/models").json()
    assert [(one["id"], one["kind"]) for one in models["models"]] == [
        ("tiny/pretrain", "policy"),
        ("tiny/sft", "policy"),
        ("tiny/reward", "reward"),
        ("tiny/ppo, step 40", "policy"),
    ]
    assert models["defaults"] == {"tiny": {"reference": "pretrain", "reward": "reward"}}
    assert models["running"] is True


def test_answers_stream_side_by_side_with_their_figures(lead: TestClient) -> None:
    told = ask(lead, models=["tiny/sft", "tiny/pretrain"], reference="own", reward="own")
    assert told[-1] == {"type": "end"}
    for column in (0, 1):
        events = [one for one in told[:-1] if one["column"] == column]
        tokens = [one for one in events if one["type"] == "token"]
        finished = events[-1]
        assert finished["type"] == "finished"
        assert 1 <= len(tokens) <= 6
        assert "".join(one["text"] for one in tokens) == finished["text"]
        assert math.isclose(sum(one["logprob"] for one in tokens), finished["logprob"])
        assert all(one["rank"] == 1 for one in tokens), "greedy takes the likeliest"
        # The same weights: no KL, and the same answer in both columns.
        assert math.isclose(finished["kl"], 0, abs_tol=1e-6)
        assert math.isfinite(finished["score"])
    texts = [one["text"] for one in told if one["type"] == "finished"]
    assert texts[0] == texts[1]


def test_a_checkpoint_answers_with_its_lines_tokenizer_and_can_be_the_base(
    lead: TestClient,
) -> None:
    checkpoint = "tiny/ppo, step 40"
    told = ask(lead, models=[checkpoint, "tiny/sft"], reference=checkpoint)
    first, second = [one for one in told if one["type"] == "finished"]
    assert first["text"] == second["text"], "the weights are the same"
    assert math.isclose(first["kl"], 0, abs_tol=1e-6)
    assert math.isclose(second["kl"], 0, abs_tol=1e-6)
    body = {"messages": WHY, "model": checkpoint, "prefix": [], "reference": checkpoint}
    found = lead.post(f"{PREFIX}/next", json=body).json()
    probable = found["tokens"][0]
    assert probable["ref_probability"] == pytest.approx(probable["probability"])


def test_several_answers_differ_and_are_the_same_again_with_their_seed(lead: TestClient) -> None:
    def texts(seed: int) -> list[str]:
        told = ask(lead, temperature=1.0, samples=4, seed=seed, max_new_tokens=12)
        found = {one["sample"]: one["text"] for one in told if one["type"] == "finished"}
        return [found[sample] for sample in range(4)]

    first = texts(3)
    assert len(set(first)) > 1
    assert texts(3) == first
    assert texts(4) != first


def test_without_a_base_and_a_reward_model_there_are_none_of_their_figures(
    lead: TestClient,
) -> None:
    finished = ask(lead)[-2]
    assert (finished["kl"], finished["log_ratio"], finished["score"]) == (None, None, None)


def test_the_next_token_is_told_with_its_probability(lead: TestClient) -> None:
    tokens = [one for one in ask(lead) if one["type"] == "token"]
    body = {
        "messages": WHY,
        "model": "tiny/sft",
        "prefix": [one["id"] for one in tokens[:2]],
        "chosen": tokens[2]["id"],
        "reference": "own",
        "top": 5,
    }
    told = lead.post(f"{PREFIX}/next", json=body).json()
    assert len(told["tokens"]) == 5
    assert told["tokens"][0]["id"] == tokens[2]["id"] == told["chosen"]["id"]
    assert math.isclose(math.log(told["chosen"]["probability"]), tokens[2]["logprob"], abs_tol=1e-5)
    assert told["chosen"]["ref_probability"] == pytest.approx(told["chosen"]["probability"])
    assert told["entropy"] == pytest.approx(tokens[2]["entropy"], abs=1e-5)


WRONG = [
    ({"models": ["tiny/stf"]}, "There is no model 'tiny/stf' here. Did you mean 'tiny/sft'?"),
    ({"models": ["../tiny/sft"]}, "There is no model '../tiny/sft' here."),
    ({"models": ["tiny/reward"]}, "tiny/reward must be a policy model, got a reward model."),
    ({"reward": "tiny/sft"}, "tiny/sft must be a reward model, got a policy model."),
    ({"reference": "nowhere"}, "There is no model 'nowhere' here."),
    ({"models": []}, "models: "),
    ({"models": ["tiny/sft"] * 5}, "models: "),
    ({"samples": 2}, "samples must be 1 at temperature 0"),
    ({"samples": 9}, "samples: "),
    ({"temperature": "1"}, "temperature: "),
    ({"top_p": 0.0}, "top_p must lie in (0, 1]"),
    ({"max_new_tokens": 10**6}, "max_new_tokens: "),
    ({"messages": []}, "messages: "),
    ({"messages": [{"role": "user", "content": " "}]}, "Turn 1 of the prompt is empty."),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: "),
    ({"path": "/etc/passwd"}, "path: extra inputs are not permitted"),
]


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_what_cannot_be_asked_is_one_line(
    change: dict[str, Any], told: str, lead: TestClient
) -> None:
    assert refused(lead, "/answers", {**ASKED, **change}).startswith(told)


def test_a_token_that_the_model_does_not_have_is_one_line(lead: TestClient) -> None:
    body = {"messages": WHY, "model": "tiny/sft", "prefix": [2**31 - 1]}
    assert refused(lead, "/next", body)
    assert refused(lead, "/next", {**body, "prefix": [-1]}).startswith("prefix.0: ")


def test_a_prompt_is_saved_once_and_offered(lead: TestClient, bench: Bench) -> None:
    before = lead.get(f"{PREFIX}/prompts").json()
    assert before["saved"] == []
    assert before["examples"] == [list(MIA.messages)]
    saved = [lead.post(f"{PREFIX}/prompts", json={"messages": WHY}).json() for _ in range(2)]
    assert saved == [{"added": True, "count": 1}, {"added": False, "count": 1}]
    assert lead.get(f"{PREFIX}/prompts").json()["saved"] == [WHY]
    assert [list(prompt.messages) for prompt in bench.regression.prompts()] == [WHY]
    assert refused(lead, "/prompts", {"messages": [{"role": "assistant", "content": "x"}]})


def test_what_a_damaged_log_still_tells_is_offered(lead: TestClient, run_dir: Path) -> None:
    rows = [Prompt.from_text(text).to_log() for text in ("One?", " ", "Two?", "One?", "a\0b")]
    rows += [{"messages": ["no turn"]}, {"messages": [{"role": "assistant", "content": "x"}]}]
    lines = [json.dumps(row) for row in rows]
    lines += ["nonsense", json.dumps(Prompt.from_text("Three?").to_log()), ""]
    (run_dir.parent / "other" / "sft" / "samples.jsonl").write_text("\n".join(lines))
    told = lead.get(f"{PREFIX}/prompts", params={"run": "other"}).json()
    assert [messages[0]["content"] for messages in told["examples"]] == ["One?", "Two?"]


def test_prompts_of_any_run_are_offered(lead: TestClient, run_dir: Path) -> None:
    own = lead.get(f"{PREFIX}/prompts").json()
    assert (own["run"], own["runs"]) == ("tiny", ["other", "tiny"])
    asked = Prompt.from_text("Another's?").to_log()
    (run_dir.parent / "other" / "sft" / "samples.jsonl").write_text(json.dumps(asked))
    other = lead.get(f"{PREFIX}/prompts", params={"run": "other"}).json()
    assert (other["run"], other["examples"]) == ("other", [asked["messages"]])
    assert (other["saved"], other["file"]) == (own["saved"], own["file"])
    gone = lead.get(f"{PREFIX}/prompts", params={"run": "gone"})
    assert gone.status_code == 400
    assert gone.json()["error"].startswith("There is no run 'gone' here.")


def test_before_the_own_runs_first_stage_another_runs_prompts_are_offered(
    run_dir: Path, make_client: Callable, sign_in: Callable
) -> None:
    bench = Bench.over(run_dir.parent / "new", None)
    parts = Parts(label_page, lab_page, (compare_routes(bench),))
    browser = make_client(gradio=False, with_parts=parts)
    sign_in(browser, "ada")
    told = browser.get(f"{PREFIX}/prompts", headers=SCRIPT).json()
    assert (told["run"], told["runs"]) == ("other", ["other", "tiny"])


def test_what_may_be_a_part_of_a_prompt_is_not_offered() -> None:
    alone = Prompt.from_text("Why?")
    assert whole_prompt(MIA.to_log()) == MIA
    assert whole_prompt({"prompt": "Where?"}) is None, "an older log's, or running text"
    assert whole_prompt({"prompt": "Where?", "prompt_id": MIA.id}) is None
    assert whole_prompt({"prompt": "Why?", "prompt_id": alone.id}) == alone
    assert whole_prompt({"prompt": "\ud800", "prompt_id": alone.id}) is None
    assert whole_prompt({"prompt": ["Why?"]}) is None
    assert whole_prompt({}) is None


def test_curves_come_in_parts(lead: TestClient, run_dir: Path) -> None:
    asked = {"run": "tiny", "stage": "pretrain", "cursor": ""}
    (part,) = lead.post(f"{PREFIX}/metrics", json={"curves": [asked]}).json()["curves"]
    assert part["rows"] == [{"step": 1, "loss": 2.0}]
    add_lines(run_dir / "pretrain", [{"step": 2, "loss": 1.0}])
    again = {**asked, "cursor": part["cursor"]}
    told = lead.post(f"{PREFIX}/metrics", json={"curves": [again, again]}).json()["curves"]
    assert [(one["rows"], one["fresh"]) for one in told] == [
        ([{"step": 2, "loss": 1.0}], False)
    ] * 2
    unknown = {"curves": [{"run": "gone", "stage": "sft"}]}
    assert refused(lead, "/metrics", unknown).startswith("There is no run 'gone' here.")


def test_the_report_is_shown_when_it_is_there_and_runs_nothing(
    lead: TestClient, run_dir: Path
) -> None:
    query = {"run": "other"}
    assert lead.get(f"{PREFIX}/report", params=query).json() == {"version": None}
    absent = lead.get(f"{PREFIX}/report.html", params=query)
    assert (absent.status_code, absent.json()["code"]) == (400, "refused")
    folder = run_dir.parent / "other" / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<h1>Report</h1>", encoding="utf-8")
    version = lead.get(f"{PREFIX}/report", params=query).json()["version"]
    page = lead.get(f"{PREFIX}/report.html", params=query)
    assert page.text == "<h1>Report</h1>"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script-src" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    (folder / "report.html").write_text("<h1>Another report</h1>", encoding="utf-8")
    os.utime(folder / "report.html", (1, 1))
    assert lead.get(f"{PREFIX}/report", params=query).json()["version"] not in (None, version)
    for run in ("../tiny", "/etc"):
        assert lead.get(f"{PREFIX}/report", params={"run": run}).status_code == 400


def test_an_app_without_models_says_so(bench: Bench, make_client: Callable, sign_in: Callable):
    routes = compare_routes(Bench(bench.index, bench.regression, None))
    browser = make_client(gradio=False, with_parts=Parts(label_page, lab_page, (routes,)))
    sign_in(browser, "ada")
    browser.headers.update(SCRIPT)
    assert refused(browser, "/answers", ASKED).startswith("This app runs no models.")
    assert browser.get(f"{PREFIX}/models").json()["running"] is False


def test_an_account_has_few_streams_and_others_have_theirs(lead: TestClient, bench: Bench) -> None:
    turns = Turns()
    for _ in range(STREAMS):
        turns.take(1)
    with pytest.raises(BusyError):
        turns.take(1)
    turns.take(2)
    turns.give_back(1)
    turns.take(1)
    ask(lead)
    (account,) = bench.turns._open
    for _ in range(STREAMS):
        bench.turns.take(account)
    answer = lead.post(f"{PREFIX}/answers", json=ASKED)
    assert (answer.status_code, answer.json()["code"]) == (429, "slow_down")
    bench.turns.give_back(account)
    assert ask(lead)[-1] == {"type": "end"}


def test_a_page_that_goes_stops_its_answers(
    lead: TestClient, bench: Bench, models: ModelServer
) -> None:
    async def visit() -> bytes:
        body = {**ASKED, "temperature": 1.0, "samples": 8, "max_new_tokens": 48}
        page = Page(lead, body, leave_at=b'"token"')
        await page.stay()
        return bytes(page.sent)

    sent = anyio.run(visit)
    assert b'"token"' in sent
    assert b'"end"' not in sent
    assert set(bench.turns._open.values()) == {0}
    end = time.monotonic() + 20
    while any(model.in_use for model in models.loaded()):
        assert time.monotonic() < end, "the models are still at work for a page that is gone"
        time.sleep(0.05)


@pytest.fixture
def long_bench(
    make_policy: Callable, tiny_tokenizer: Any, tiny_formatter: Any, tmp_path: Path, models: Any
) -> Bench:
    """Return a bench over a run whose policy writes for long: it never ends an answer itself."""
    policy = make_policy(0, torch.float32, context=2048)
    with torch.no_grad():
        policy.get_input_embeddings().weight[tiny_formatter.end_id] = 0
    save_model(tmp_path / "policy", policy, tiny_tokenizer, "# For tests\n")
    write_stage(tmp_path / "long", "sft", model=tmp_path / "policy")
    return Bench.over(tmp_path / "long", models)


def test_a_lead_with_two_pages_of_long_answers_keeps_nobody_waiting(
    long_bench: Bench, make_client: Callable, sign_in: Callable, accounts: Accounts
) -> None:
    once = accounts.add("eve", "lead")
    accounts.change_password(accounts.sign_in("eve", once, "198.51.100.1").account.id, once, GOOD)
    parts = Parts(label_page, lab_page, (compare_routes(long_bench),), COMPARE_FAILURES)
    browsers = {}
    for name in ("ada", "eve"):
        browsers[name] = make_client(gradio=False, with_parts=parts)
        sign_in(browsers[name], name)
    asked = {**ASKED, "models": ["long/sft"], "max_new_tokens": 4}

    async def all_at_once() -> tuple[bytes, bytes, bytes]:
        long = {**asked, "models": ["long/sft"] * 4, "max_new_tokens": 2000}
        first, second = Page(browsers["ada"], long), Page(browsers["ada"], long)
        other = Page(browsers["eve"], asked)
        async with anyio.create_task_group() as group:
            group.start_soon(first.stay)
            await first.until(b'"token"')
            group.start_soon(second.stay)
            await second.until(b'"queued"')
            await other.stay()
            first.leave()
            second.leave()
        return bytes(first.sent), bytes(second.sent), bytes(other.sent)

    first, second, other = anyio.run(all_at_once)
    assert b'"end"' in other
    assert b'"failed"' not in other
    assert b'"finished"' not in first + second, "long answers are still being written"


def test_the_app_goes_on_while_the_models_read_nothing(
    bench: Bench, make_client: Callable, sign_in: Callable, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEAF_UNTIL", str(tmp_path / "never"))
    monkeypatch.setattr(serving_process, "WORKER", "tests.pipeline.deaf_worker")
    much = [{"role": "user", "content": "cat " * 25_000}]
    gaps = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async def come_and_go(browser: TestClient) -> None:
        small, large = Page(browser, ASKED), Page(browser, {**ASKED, "messages": much})
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            group.start_soon(small.stay)
            await small.until(b'"notice"')
            group.start_soon(large.stay)
            await anyio.sleep(1)
            small.leave()
            await large.until(b"\n")
            large.leave()
            await anyio.sleep(1)
            group.cancel_scope.cancel()

    with ModelServer(ServingSettings(device="cpu")) as deaf:
        with_deaf = Bench(bench.index, bench.regression, deaf)
        routes = (compare_routes(with_deaf),)
        browser = make_client(
            gradio=False, with_parts=Parts(label_page, lab_page, routes, COMPARE_FAILURES)
        )
        sign_in(browser, "ada")
        anyio.run(come_and_go, browser)
    assert max(gaps) < 5, "whoever saves a judgment meanwhile waits as long"
    assert set(with_deaf.turns._open.values()) == {0}


def test_an_account_has_few_looks_under_way(lead: TestClient, bench: Bench) -> None:
    body = {"messages": WHY, "model": "tiny/sft", "prefix": []}
    assert lead.post(f"{PREFIX}/next", json=body).status_code == 200
    (account,) = bench.looks._open
    for _ in range(LOOKS):
        bench.looks.take(account)
    answer = lead.post(f"{PREFIX}/next", json=body)
    assert (answer.status_code, answer.json()["error"]) == (429, LOOKING)
    assert ask(lead)[-1] == {"type": "end"}, "answers are counted apart"
    bench.looks.give_back(account)
    assert lead.post(f"{PREFIX}/next", json=body).status_code == 200


def test_events_are_told_as_json_has_them() -> None:
    names = {"/runs/tiny/sft/model": "tiny/sft"}
    assert describe_event(1, Loading("/runs/tiny/sft/model", 5), names)["path"] == "tiny/sft"
    assert describe_event(1, Loading("/elsewhere/secret/model", 5), names)["path"] == "model"
    assert describe_event(0, Failed("No."), names) == {
        **{"column": 0, "type": "failed"},
        "reason": "No.",
    }
    token = Token(0, 5, "a\u2028ü", -math.inf, 9, math.nan, kl=math.inf)
    line = write_line(describe_event(0, token, names))
    assert line.count("\n") == 1
    told = json.loads(line)
    assert (told["type"], told["text"], told["rank"]) == ("token", "a\u2028ü", 9)
    assert (told["logprob"], told["entropy"], told["kl"], told["ref_logprob"]) == (None,) * 4
