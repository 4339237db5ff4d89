"""Meet accelerate and ``torch.distributed``: here, and nowhere else.

A stage is written for one process; ``Workers`` tells it which one it is, and carries what must
cross processes. On a machine without a GPU the processes join over gloo.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config.training import Precision
from pipeline.cpu import PLAIN_LINEAR, keep_freed_memory

ResultT = TypeVar("ResultT")
DTYPES = {"float32": torch.float32, "bf16": torch.float32, "float64": torch.float64}


def use_cpu() -> bool:
    """Tell whether the stages compute on the CPU: there is no accelerator, or it is hidden."""
    return not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"


def leave() -> None:
    """Part from the other processes in order: a group left open may abort at Python's exit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Workers:
    """Hold the processes of a stage, and this one's place among them.

    Args:
        precision: ``bf16`` computes under autocast with float32 weights; else the weights' type.

    Attributes:
        precision: as given.
    """

    def __init__(self, precision: Precision = "float32") -> None:
        self.precision: Precision = precision
        if use_cpu():
            keep_freed_memory()
        # Accelerate keeps one precision a process, and one process may run stages of several.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=use_cpu(),
            mixed_precision="bf16" if precision == "bf16" else "no",
            # A parameter without a gradient (a pooling layer, a frozen base) must not stop a step.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
        )

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        """The device this process computes on."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def device_name(self) -> str:
        """What the stage computes on, for the manifest."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)} ({self.device})"
        return f"{self.device.type}, {torch.get_num_threads()} threads"

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def on_main(self, work: Callable[[], ResultT]) -> ResultT:
        """Do the work on rank 0 alone and give its result, or its error, to every process."""
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error
        broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: ResultT = outcome[0]
        return result

    def gather_objects(self, items: list[ResultT]) -> list[ResultT]:
        """Concatenate every rank's items, in rank order."""
        if self.world_size == 1:
            return items
        gathered: list[ResultT] = gather_object(items)
        return gathered

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes, elementwise."""
        if self.world_size == 1:
            return values
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """Place a trained model on the device and average its gradients over the processes."""
        wrapped: nn.Module = self.accelerator.prepare_model(model)
        return wrapped

    def place(self, model: nn.Module) -> nn.Module:
        """Place a model that is not trained on the device."""
        model.requires_grad_(False)
        return model.to(self.device).eval()

    def freeze(self, model: nn.Module) -> nn.Module:
        """Place a model whose weights never change on the device.

        Under ``bf16`` its linear layers keep bfloat16: autocast would make the very same of them
        anew at each use, for it remembers only what is trained.
        """
        placed = self.place(model)
        if self.accelerator.mixed_precision == "bf16":
            for layer in placed.modules():
                if type(layer) in PLAIN_LINEAR:
                    for name, weight in list(layer.named_parameters(recurse=False)):
                        lower = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
                        setattr(layer, name, lower)
        return placed

    @contextlib.contextmanager
    def at_hand(self, models: Sequence[nn.Module]) -> Iterator[None]:
        """Bring models to the device for a while, and send them back to main memory."""
        for model in models:
            model.to(self.device)
        try:
            yield
        finally:
            self.put_away(models)

    def put_away(self, models: Sequence[nn.Module]) -> None:
        """Send models to main memory."""
        for model in models:
            model.to("cpu")

    def unwrap(self, model: nn.Module) -> Any:
        """Return the model under the wrappers, for generation and saving."""
        return self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)

    @contextlib.contextmanager
    def accumulating(self, model: nn.Module, *, last: bool) -> Iterator[None]:
        """Exchange gradients between processes only in the last of several backward passes."""
        with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
            yield

    def average_gradients(self, model: nn.Module) -> None:
        """Average gradients over the processes where no wrapper of the model has done so."""
        if self.world_size == 1 or isinstance(model, DistributedDataParallel):
            return
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= self.world_size

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Compute in the stage's precision."""
        context: contextlib.AbstractContextManager[None] = self.accelerator.autocast()
        return context
