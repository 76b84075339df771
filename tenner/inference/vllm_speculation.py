"""Budget forcing under vLLM's speculative decoding: a draft is kept where it is the token that forcing gives anyway.

vLLM refuses logits processors where it speculates, as they see one position of a row only. Here the forcing machines
verify the drafts instead, position by position: at each one the machine names its token, from the logits after all ids
before it; where the draft is that token the next position counts, and otherwise the token itself ends the step. A token
is a function of the ids before it (the likeliest one, or a draw that belongs to its position), so the ids are those
without speculation, whatever is drafted and by whatever method.

Shape suffixes: R rows of vLLM's batch, N logits, one for each draft and one more for each row, S drafts of a row and
one more, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm import LLM
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import PLACEHOLDER_TOKEN_ID, RejectionSampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from tenner.core.errors import TennerError
from tenner.inference.forced_tokens import ForcedRow
from tenner.inference.vllm import ForcingProcessor


class ForcingVerifier(RejectionSampler):  # type: ignore[misc]
    """Verifies the drafts of forced rows; those of other rows are verified by vLLM."""

    def __init__(self, processor: ForcingProcessor, *args: Any) -> None:
        super().__init__(*args)
        self._processor = processor

    def forward(
        self, metadata: SpecDecodeMetadata, draft_probs: Tensor | None, logits: Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:  # fmt: skip
        """The ids that each row emits, (R, S), with a placeholder after the last one. `logits` is (N, V)."""
        counts = metadata.num_draft_tokens
        emitted_RS = torch.full((len(counts), metadata.max_spec_len + 1), PLACEHOLDER_TOKEN_ID, dtype=torch.int32)
        logprobs = None
        if any(i not in self._processor.rows for i in range(len(counts))):
            by_vllm = super().forward(metadata, draft_probs, logits.clone(), self._without_forcing(sampling_metadata))
            emitted_RS, logprobs = by_vllm.sampled_token_ids.cpu(), by_vllm.logprobs_tensors
        logits = logits.float()  # as vLLM's sampler does before any processor
        drafts = torch.split(metadata.draft_token_ids.cpu(), counts)
        firsts = [sum(counts[:i]) + i for i in range(len(counts))]  # of each row's logits
        active = {i: (row, len(out)) for i, (row, out) in self._processor.rows.items()}
        for i in active:
            emitted_RS[i] = PLACEHOLDER_TOKEN_ID
        for position in range(metadata.max_spec_len + 1):
            rows: dict[int, tuple[ForcedRow, int]] = {
                firsts[i] + position: (row, out + position) for i, (row, out) in active.items()
            }
            forced, likeliest = self._processor.choose(logits, rows)
            tokens = forced | likeliest
            for i in list(active):
                emitted_RS[i, position] = token = tokens[firsts[i] + position]
                if position == counts[i] or token != drafts[i][position]:
                    del active[i]
            if not active:
                break
        return SamplerOutput(sampled_token_ids=emitted_RS.to(logits.device), logprobs_tensors=logprobs)

    def _without_forcing(self, sampling_metadata: SamplingMetadata) -> SamplingMetadata:
        others = LogitsProcessors(p for p in sampling_metadata.logitsprocs.all if p is not self._processor)
        return replace(sampling_metadata, logitsprocs=others)


def install(llm: LLM) -> None:
    """Let the forcing machines verify what the engine drafts.

    Raises TennerError where this vLLM keeps its sampling elsewhere.
    """
    llm.collective_rpc(_install)


def _install(worker: Any) -> None:
    config, runner = worker.vllm_config, worker.model_runner
    own: Any = getattr(runner, "rejection_sampler", None)
    if type(own) is not RejectionSampler or config.parallel_config.world_size > 1:
        raise TennerError(
            "budgets cannot be forced under this speculative decoding: vLLM samples it in another place",
            hint="leave speculative_config out of evaluate.vllm"
            + (", or use one device" if config.parallel_config.world_size > 1 else ""),
        )
    if own.synthetic_mode:
        raise TennerError(
            "rejection_sample_method = synthetic accepts drafts by chance, not by what the student says",
            hint="leave it out of speculative_config",
        )
    processor = ForcingProcessor(config, runner.device, False)
    runner.input_batch.logitsprocs.non_argmax_invariant.append(processor)
    runner.input_batch.logitsprocs_need_output_token_ids = True
    runner.rejection_sampler = ForcingVerifier(processor, runner.sampler, config.speculative_config, runner.device)
