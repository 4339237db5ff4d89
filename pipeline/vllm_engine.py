"""Draw rollouts with vLLM, by way of ``trl.generation``.

Departures from our own sampling:
1. vLLM draws from its own generator. The keys are not read: another number of processes, or a
   resumed run, draws other tokens.
2. It computes in its own type and with its own kernels. Its log-probabilities come back with the
   tokens, so that the gap is logged and ``ppo.importance_cap`` can weigh it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.config.ppo import PpoSection
from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers
from pipeline.errors import EngineError
from pipeline.formatting import Formatter
from pipeline.hydra import Branch
from pipeline.records import Prompt
from pipeline.sampling import SampledTokens


class WeightSource(nn.Module):
    """Show a policy's weights under the names that vLLM loads, adapters merged.

    Args:
        model: the policy, unwrapped.
        folder: a saved model of the same shape with its tokenizer, for vLLM to start from.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        super().__init__()
        self.model, self.name_or_path = model, str(folder)

    def named_parameters(  # type: ignore[override]
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight once, tied ones too."""
        if isinstance(self.model, Branch):
            yield from self.model.merged_weights()
        else:
            yield from self.model.named_parameters(prefix, recurse, remove_duplicate)


class VllmEngine:
    """Draw with vLLM, on the trainer's own GPUs or on a server's.

    Args:
        section: decoding, and the engine's settings.
        workers: the processes at work.
        formatter: of the policy's tokenizer.
        policy: what is trained.
        start: folder of the model that training starts from.
        prompts: all that will be asked; the longest gives the context.
        where: the stage's name, for errors.

    Raises:
        DataError: if a prompt leaves no room for max_new_tokens in the context.
        EngineError: if the server is out of reach or was started with other settings.
    """

    def __init__(
        self,
        section: PpoSection,
        workers: Workers,
        formatter: Formatter,
        policy: PreTrainedModel | Branch,
        start: Path,
        prompts: Sequence[Prompt],
        where: str = "ppo",
    ) -> None:
        self._section, self._workers, self._where = section.engine, workers, where
        self._decoding = section.decoding
        # What a process without a share asks, where all must ask alike many.
        self._filler = [formatter.end_id]
        self._weights = WeightSource(policy, start)
        room = policy.config.max_position_embeddings - section.max_new_tokens
        longest = max(map(len, formatter.check_lengths(prompts, room, "ppo.prompts")))
        self._generation = self._open(formatter, longest + section.max_new_tokens)
        if self._section.mode == "server":
            workers.on_main(self._check_server)

    @property
    def decoding(self) -> DecodingSection:
        """Return the temperature and the lengths that it draws with."""
        return self._decoding

    def sample(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],  # noqa: ARG002 - vLLM draws from its own generator
    ) -> list[SampledTokens]:
        """Give vLLM the policy's weights, and draw a completion for each prompt.

        Args:
            model: the policy, unwrapped.
            prompts: token ids up to where the answer begins.
            keys: not read.

        Raises:
            EngineError: if vLLM gives a token no log-probability.
        """
        self._weights.model = model
        self._generation.sync_weights()
        # TRL cuts the gathered completions into shares of one size.
        size = max(1, *self._workers.gather_objects([len(prompts)]))
        asked = [list(ids) for ids in prompts]
        asked += [self._filler] * (size - len(asked))
        _, ids, logprobs, _ = self._generation.generate(
            prompts=asked, images=None, num_generations=1
        )
        rows = zip(ids, logprobs, strict=True)
        return [self._read(*row) for row in list(rows)[: len(prompts)]]

    def _read(
        self, ids: Sequence[int], logprobs: Sequence[Sequence[float | None]]
    ) -> SampledTokens:
        """Read a completion, and the first figure at each place: the sampled token's."""
        figures = [places[0] for places in logprobs]
        numbers = [figure for figure in figures if figure is not None]
        if len(numbers) != len(ids):
            raise EngineError(
                f"{self._where}.engine: vLLM must give each of {len(ids)} tokens a "
                f"log-probability, got {len(numbers)}. Its weights may not be finite; see the log "
                "of the last iterations."
            )
        return SampledTokens(list(ids), numbers)

    def _open(self, formatter: Formatter, context: int) -> Any:
        # Importing TRL takes seconds; who samples with the policy itself does without.
        from trl.generation.vllm_generation import VLLMGeneration

        section, decoding = self._section, self._decoding
        try:
            return VLLMGeneration(
                model=self._weights,
                accelerator=self._workers.accelerator,
                processing_class=formatter.tokenizer,
                mode=section.mode,
                server_base_url=section.server,
                server_timeout=section.server_timeout,
                group_port=section.group_port,
                tensor_parallel_size=section.tensor_parallel_size,
                gpu_memory_utilization=section.gpu_memory_utilization,
                max_model_length=context,
                enable_sleep_mode=section.sleep,
                temperature=decoding.temperature,
                max_completion_length=decoding.max_new_tokens,
                logprobs=0,
                # We stop at the template's end, whatever the model folder calls its own.
                generation_kwargs={"stop_token_ids": [formatter.end_id], "ignore_eos": True},
            )
        except (OSError, RuntimeError) as error:
            if section.mode != "server":
                raise
            raise self._refuse_server(f"is no use ({str(error).splitlines()[0]})") from error

    def _check_server(self) -> None:
        """Refuse a server whose figures are of another distribution than it samples from."""
        info = self._generation.vllm_client.get_server_info()
        found = info["model_config"]["logprobs_mode"]
        if found != "processed_logprobs":
            raise self._refuse_server(f"runs with --logprobs-mode {found}")

    def _refuse_server(self, what: str) -> EngineError:
        return EngineError(
            f"{self._where}.engine.server: {self._section.server} {what}. Start it with "
            f"'trl vllm-serve --model {self._weights.name_or_path}'."
        )
