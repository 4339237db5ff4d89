"""The page of comparisons over two runs of tiny models, in a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import resolve
from pipeline.records import Prompt
from pipeline.report.page import write_report
from pipeline.runs import checkpoint_path
from tests.browser.compare.page import ComparePage
from tests.browser.running import Person, Server
from tests.run_folders import write_stage

PROMPT = "Where does Tom live?"


class CompareServer(Server):
    """The app over a store and a run."""

    def __init__(self, path: Path, run_dir: Path) -> None:
        super().__init__(path)
        self.run_dir = run_dir

    def command(self) -> list[str]:
        """Return what serves the store and the run."""
        module = "tests.browser.compare.serve"
        return [sys.executable, "-m", module, str(self.path), str(self.port), str(self.run_dir)]


@pytest.fixture(scope="session")
def policies(make_policy: Callable, tiny_tokenizer, tmp_path_factory) -> list[Path]:
    """Return two policies that say different things at length."""
    import torch

    from pipeline.models import save_model

    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("policy") / "model"
        model = make_policy(seed, torch.float32, context=1024)
        save_model(folder, model, tiny_tokenizer, "# A policy for tests\n")
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def judge(policies: list[Path], tiny_formatter, tiny_tokenizer, tmp_path_factory) -> Path:
    """Return a reward model that reads whatever the policies may write."""
    from pipeline.models import new_reward_model, save_model

    model = new_reward_model(policies[0], tiny_formatter, seed=1)
    # Drawn tokens make a text of other tokens, and more of them.
    model.config.max_position_embeddings = 8192
    folder = tmp_path_factory.mktemp("judge") / "model"
    save_model(folder, model, tiny_tokenizer, "# A reward model for tests\n")
    return folder


@pytest.fixture(scope="session")
def run_dir(policies: list[Path], judge: Path, tmp_path_factory) -> Path:
    """Return a run of a base, a tuned policy, labels and a reward model; another lies beside it."""
    base, tuned = policies
    run = tmp_path_factory.mktemp("runs") / "tiny"
    losses = [{"step": step, "loss": 3.0 / step} for step in range(1, 6)]
    write_stage(run, "pretrain", model=base, log=losses, sources={"tiny:facts": "1" * 64})
    write_stage(run, "sft", ["pretrain"], model=tuned, log=[{"step": 2, "loss": 1.0, "lr": 0.1}])
    write_stage(run, "label", ["sft"], metrics={"judgments_human": 40})
    labels = {"store:": "a1b2c3d4e5f6"}
    write_stage(run, "reward", ["sft", "label"], model=judge, sources=labels)
    broken = write_stage(run, "ppo", ["sft", "reward"], model=tuned)
    (broken / "model" / "model.safetensors").write_bytes(b"nothing")
    # As PPO leaves a checkpoint: a model and no tokenizer.
    no_tokenizer = shutil.ignore_patterns("*token*", "*.jinja")
    shutil.copytree(tuned, checkpoint_path(broken, 40) / "policy", ignore=no_tokenizer)
    sample = {"step": 1, **Prompt.from_text("What does a pig say?").to_log(), "completion": "Oink."}
    (run / "sft" / "samples.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    other = write_stage(
        run.parent / "second", "sft", log=[{"step": 1, "loss": 5.0}, {"step": 9, "loss": 4}]
    )
    system = {"role": "system", "content": "Be brief."}
    asked = Prompt((system, {"role": "user", "content": "What is red?"})).to_log()
    (other / "samples.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    return run


@pytest.fixture(scope="session")
def server(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompareServer]:
    running = CompareServer(tmp_path_factory.mktemp("compare") / "labels.db", run_dir)
    running.start()
    yield running
    running.kill()
    running.store.close()


@pytest.fixture(autouse=True)
def fresh(run_dir: Path) -> None:
    """Forget what other tests have saved and written."""
    (run_dir / "regression.jsonl").unlink(missing_ok=True)
    shutil.rmtree(run_dir / "report", ignore_errors=True)


@pytest.fixture
def report(run_dir: Path) -> Path:
    """Write the run's report, and return its folder."""
    stages = {"pretrain": {"tokens": 1000, "sources": ["tiny:facts"]}, "sft": {}, "report": {}}
    config = resolve({"run_dir": str(run_dir), **stages})
    folder = run_dir / "report"
    folder.mkdir()
    write_report(config, folder, config.section("report", ReportSection))
    return folder


@pytest.fixture(scope="session")
def lead_account(server: CompareServer) -> Person:
    return server.add_person("lead")


@pytest.fixture
def lead(
    new_context: Callable[..., BrowserContext], server: CompareServer, lead_account: Person
) -> ComparePage:
    """Return the page of a lead who has signed in."""
    page = ComparePage(new_context().new_page(), server)
    page.sign_in(lead_account)
    return page
