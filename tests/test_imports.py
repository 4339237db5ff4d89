"""Hold the rules of who may import whom."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ("pipeline", "stages", "labeling_ui") if (ROOT / name).is_dir()]

LAYERS = (
    {"errors", "artifacts", "closing", "config", "records", "runs", "store", "doctor", "provenance"}
    | {"serving", "serving_messages", "serving_process", "serving_wire", "word_diff"}
    | {"regression_set", "model_places", "run_index"},
    {"masked", "advantages", "losses", "ranking_loss", "ranking_accuracy"}
    | {"agreement", "calibration", "tempering", "baselines", "best_of", "bootstrap", "statistics"}
    | {"cpu", "distributed", "kl_control", "score_scaling", "selection"}
    | {"flag_agreement", "labeling_quality", "preferences", "win_rates"}
    | {"judge_cache", "llm_judge"},
    {"tokenizer", "formatting", "models", "data", "ranking_data", "world", "cursors", "cards"}
    | {"adapted", "hydra", "hydra_models"},
    {
        "cached_model",
        "decoding",
        "sampling",
        "rollout",
        "rollout_figures",
        "engines",
        "vllm_engine",
        "episodes",
        "forward",
        "growing_text",
        "judges",
        "reward_functions",
        "rewards",
        "labeling",
        "collecting",
        "self_instruct",
        "scoring",
        "model_finding",
        "served_models",
        "serving_memory",
        "serving_turns",
        "serving_worker",
        "showing",
        "streaming",
        "task_screen",
        "task_text",
    },
    {"optimizing", "checkpointing", "pretraining", "sft", "reward", "reward_sources"}
    | {"actor_critic", "ppo", "ptx", "held_out", "ppo_loop"},
    {"evaluation", "report"},
)
"""What is inside ``pipeline``, lowest first: a part imports from its own layer and those below."""

STAGES = {"pretrain", "sft", "sample", "label", "reward", "ppo", "evaluate", "report"}
ROOTS = {
    *("stages.cli", "stages.entry", "stages.status", "stages.labels", "stages.fields"),
    *("stages.serve", "stages.user", "stages.compare", "stages.answer_columns"),
    *("stages.interview", "stages.next_tokens", "stages.subjects"),
}
WITHOUT_TORCH = (
    *("pipeline.errors", "pipeline.config", "pipeline.records", "pipeline.artifacts"),
    *("pipeline.runs", "pipeline.store", "pipeline.agreement", "pipeline.world"),
    *("pipeline.doctor", "pipeline.kl_control", "pipeline.flag_agreement"),
    *("pipeline.labeling_quality", "pipeline.provenance", "labeling_ui"),
    *("pipeline.preferences", "pipeline.win_rates"),
    *("pipeline.judge_cache", "pipeline.llm_judge"),
    *("pipeline.serving", "pipeline.serving_messages", "pipeline.serving_process"),
    *("pipeline.serving_wire", "pipeline.word_diff"),
    *("pipeline.regression_set", "pipeline.model_places", "pipeline.run_index"),
    *sorted(ROOTS),
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@functools.cache
def imports_of(module: str, *, lazy: bool = True) -> frozenset[str]:
    """Return the modules that a module imports, those inside functions only if ``lazy``."""
    found: set[str] = set()
    open_ends: list[ast.AST] = [tree_of(module)]
    while open_ends:
        node = open_ends.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {resolve(node.module or "", alias.name) for alias in node.names}
        if lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            open_ends += ast.iter_child_nodes(node)
    return frozenset(found)


def resolve(module: str, name: str) -> str:
    """Return the module of ``from module import name``: the name may be a module itself."""
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def part_of(module: str) -> str:
    return module.split(".")[1]


def layer_of(module: str) -> int:
    layers = [at for at, parts in enumerate(LAYERS) if part_of(module) in parts]
    assert len(layers) == 1, f"{module} must stand in one layer of {__name__}.LAYERS, not {layers}"
    return layers[0]


PIPELINE = [name for name in MODULES if is_in(name, "pipeline") and name != "pipeline"]


@pytest.mark.parametrize("module", PIPELINE)
def test_pipeline_imports_neither_stages_nor_the_app(module: str):
    assert [name for name in imports_of(module) if name.startswith(("stages", "labeling_ui"))] == []


@pytest.mark.parametrize("module", PIPELINE)
def test_imports_inside_pipeline_run_one_way(module: str):
    own = layer_of(module)
    inside = [name for name in imports_of(module) if name.startswith("pipeline.")]
    assert [name for name in inside if layer_of(name) > own] == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {
        module: {name for name in imports_of(module, lazy=False) if name in MODULES} - {module}
        for module in MODULES
    }
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if is_in(name, "stages")])
def test_stage_modules_import_no_other_stage(module: str):
    others = {f"stages.{stage}" for stage in STAGES} - {module}
    assert imports_of(module) & others == set()
    if module in {f"stages.{stage}" for stage in STAGES}:
        assert {name for name in imports_of(module) if is_in(name, "stages")} <= {"stages.entry"}
        assert not any(is_in(name, "labeling_ui") for name in imports_of(module))


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_module_can_be_run_by_name_and_as_a_script(stage: str):
    body = tree_of(f"stages.{stage}").body
    (run,) = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    assert [argument.arg for argument in run.args.args] == ["config", "name"]
    assert [argument.arg for argument in run.args.kwonlyargs] == ["force"]
    script = body[-1]
    assert isinstance(script, ast.If)
    assert ast.unparse(script.test) == "__name__ == '__main__'"


def test_the_app_imports_no_stage():
    for module in MODULES:
        if is_in(module, "labeling_ui"):
            assert not any(is_in(name, "stages") for name in imports_of(module)), module


@pytest.mark.parametrize("module", [name for name in MODULES if name != "pipeline.distributed"])
def test_processes_are_met_in_one_module(module: str):
    for name in imports_of(module):
        assert not is_in(name, "accelerate")
        assert not is_in(name, "torch.distributed")
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "torch.distributed", f"{module}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert "distributed" not in {alias.name for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_themselves_are_empty(package: str):
    if package != "labeling_ui":
        assert tree_of(package).body == []


def test_what_the_app_and_the_command_line_need_loads_no_torch_and_has_no_effect():
    modules = [name for name in MODULES if any(is_in(name, package) for package in WITHOUT_TORCH)]
    # Alembic runs its environment and the migrations itself, inside a migration.
    modules = [name for name in modules if ".migrations." not in name]
    code = (
        "import importlib, logging, os, sys\n"
        "environment = dict(os.environ)\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "    assert dict(os.environ) == environment, name\n"
        "    assert not logging.root.handlers, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
