"""Let people work in a store of the tests: leads with accounts, labelers who judge and write."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.store import Judgment, LabelStore, Task
from pipeline.store.schema_app import AccountRow
from pipeline.store.values import Written


def add_account(store: LabelStore, name: str, role: str = "lead") -> int:
    """Add an account that nobody can sign in to, with its labeler, and return its id."""
    labeler = store.add_labeler(name)
    with store.writing() as session:
        row = AccountRow(
            name=name, role=role, password="", labeler_id=labeler, created=store.clock()
        )
        session.add(row)
        session.flush()
        return row.id


def ranks_of(task: Task, order: str) -> dict[str, int]:
    """Rank ``answer 0``, ``answer 1``, ... as an order such as ``"0>1=2"`` says."""
    tiers = [tier.split("=") for tier in order.split(">")]
    place = {
        f"answer {number}": rank for rank, tier in enumerate(tiers, start=1) for number in tier
    }
    return {choice.id: place[choice.text] for choice in task.completions}


def judge_all(
    store: LabelStore,
    name: str,
    order: str | Callable[[Task], str] = "0>1>2",
    group: str = "train",
    **fields: object,
) -> list[Task]:
    """Let a labeler judge every task that waits for them, and return the tasks."""
    labeler = store.add_labeler(name, group=group)
    done = []
    while (task := store.lease_task(labeler)) is not None:
        said = order if isinstance(order, str) else order(task)
        work = Judgment(ranks=ranks_of(task, said), **{"interface": "1", **fields})
        store.submit(task.token, work, f"{name}/{task.id}/1")
        done.append(task)
    return done


def revise(store: LabelStore, task: Task, order: str, key: str, **fields: object) -> None:
    """Submit a further revision of a judgment."""
    store.submit(task.token, Judgment(ranks=ranks_of(task, order), **fields), key)


def write_all(store: LabelStore, name: str, text: str, group: str = "train") -> list[Task]:
    """Let a labeler write the same answer to every prompt that waits for them."""
    labeler = store.add_labeler(name, group=group)
    done = []
    while (task := store.lease_task(labeler)) is not None:
        store.submit(task.token, Written(text), f"{name}/{task.id}/1")
        done.append(task)
    return done
