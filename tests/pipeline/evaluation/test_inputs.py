from __future__ import annotations

import importlib.metadata

from pipeline.config.run import resolve
from pipeline.evaluation import cells
from pipeline.evaluation.inputs import hash_inputs


def hashes(tree):
    return hash_inputs(resolve(tree).stages["evaluate"], 0)


def test_the_formats_of_tasks_are_an_input_where_there_are_tasks(tree, monkeypatch):
    before, real = hashes(tree), importlib.metadata.version

    def upgraded(package):
        return "99.0" if package == "lm_eval" else real(package)

    for owner, name, value in (
        (cells, "VERSION", cells.VERSION + 1),
        (importlib.metadata, "version", upgraded),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            after = hashes(tree)
        assert {key for key in after if after[key] != before[key]} == {"task formats"}
    assert hashes(tree) == before
    tree["evaluate"]["tasks"] = []
    assert "task formats" not in hashes(tree)
