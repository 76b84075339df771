"""Budget forcing inside vLLM: a logits processor that runs the forcing machines, and the engine built on it.

The processor also works alone, in `vllm serve`:

    vllm serve MODEL --generation-config vllm --logits-processors tenner.inference.vllm:ForcingProcessor

A request is forced when its `vllm_xargs` name a format; the other keys are the fields of `ForcingArgs`, each prefixed
with `tenner_`:

    {"prompt": "...", "max_tokens": 3000, "vllm_xargs": {"tenner_format": "s1", "tenner_thinking_tokens_max": 2000,
     "tenner_waits": 2, "tenner_answer_tokens_max": 512}}

`--generation-config vllm` keeps vLLM from stopping at other ids than the tokenizer's end of text: the processor knows
the others (see `core/turn_end.py`), and gives vLLM its own where one of them ends an answer.

Shape suffixes: R rows of vLLM's batch, N rows of logits (R, or more where drafts are verified), V vocabulary.
"""

import itertools
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from tenner.core import turn_end
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, ThinkFormat, Tokenizer
from tenner.core.records import Grace, Policy, Sampling
from tenner.inference.defaults import ANSWER_TOKENS_MAX, ROWS, WAIT_TEXT
from tenner.inference.engine import EngineInfo, LocalEngine, vllm_not_installed
from tenner.inference.forced_tokens import ForcedRow
from tenner.inference.forcing import ForcingMachine, Measured, Phase
from tenner.inference.format_ids import FormatIds
from tenner.inference.job import Job, Prompt
from tenner.inference.rng import PositionalRNG
from tenner.inference.sampling import draw, measure

try:
    import psutil  # a dependency of vLLM
    from vllm import LLM, SamplingParams
    from vllm.config import VllmConfig
    from vllm.inputs import TokensPrompt
    from vllm.platforms import current_platform
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates
    from vllm.v1.sample.sampler import Sampler
except ModuleNotFoundError as missing:
    raise vllm_not_installed() from missing

KEY = "tenner_"
TICKET = f"{KEY}ticket"
"""In the arguments of a request of VLLMEngine: the key of its row in _ROWS."""
ROW = f"{KEY}row"
"""Where the processor keeps the row of any other request; a request must not set it."""
CPU_BLOCK_TOKENS = 32
"""The smallest block size of vLLM on a CPU. Its prefix cache keeps whole blocks only, and its default, 128, exceeds
many prompts: a sweep of the demo's student took 1.6 times as long with it."""
CPU_CACHE_DIVISOR = 4
"""On a CPU, the KV cache gets the free memory divided by this. vLLM's default is 92 % of all memory, or it fails."""
TAIL_TOKENS = 32
"""In so many last ids of a prompt the opening of a thinking is looked for."""
_ROWS: dict[int, ForcedRow] = {}
_TICKETS = itertools.count()


class ForcingArgs(BaseModel):
    """The forcing arguments of a request; in the request each key has the prefix `tenner_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    thinking_tokens_max: int | None = Field(default=None, ge=0)
    thinking_tokens_min: int = Field(default=0, ge=0)
    waits: int = Field(default=0, ge=0)
    wait_text: str = Field(default=WAIT_TEXT, min_length=1)
    grace_tokens: int | None = Field(default=None, gt=0)
    """The last tokens of the budget, in which thinking ends as soon as an end is likely (see `records.Grace`)."""
    grace_candidates: int = Field(default=Grace.model_fields["candidates"].default, gt=0)
    answer_tokens_max: int = Field(default=ANSWER_TOKENS_MAX, gt=0)
    """The part of max_tokens that is reserved for the answer."""

    @model_validator(mode="after")
    def _has_grace(self) -> Self:
        if self.grace_tokens is None and "grace_candidates" in self.model_fields_set:
            raise ValueError("grace_candidates has no effect without grace_tokens")
        return self

    @property
    def policy(self) -> Policy:
        """The policy of the request."""
        given = self.grace_tokens
        grace = None if given is None else Grace(tokens=given, candidates=self.grace_candidates)
        return Policy(
            thinking_tokens_max=self.thinking_tokens_max, thinking_tokens_min=self.thinking_tokens_min,
            waits=self.waits, grace=grace,
        )  # fmt: skip

    @classmethod
    def of(cls, params: SamplingParams) -> Self | None:
        """Those of a request; None without forcing. Raise ValueError, which vLLM turns into a 400, if invalid."""
        given = {key: value for key, value in (params.extra_args or {}).items() if key.startswith(KEY)}
        if not given or given.get(TICKET) in _ROWS:
            return None
        try:
            args = cls.model_validate({key.removeprefix(KEY): value for key, value in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{KEY}{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if args.format not in FORMATS:
            raise ValueError(f"{KEY}format: {args.format!r} is not one of {', '.join(FORMATS)}")
        unsupported = {
            "top_k": params.top_k > 0, "min_p": params.min_p > 0, "ignore_eos": params.ignore_eos,
            "min_tokens": params.min_tokens > 0, "presence_penalty": params.presence_penalty != 0,
            "frequency_penalty": params.frequency_penalty != 0, "repetition_penalty": params.repetition_penalty != 1,
            "structured_outputs": params.structured_outputs is not None, "n": params.n != 1,
            "thinking_token_budget": params.thinking_token_budget is not None,
        }  # fmt: skip
        if conflicts := [name for name, is_set in unsupported.items() if is_set]:
            raise ValueError(f"{', '.join(conflicts)}: not supported together with {KEY}format")
        return args


class ForcingProcessor(LogitsProcessor):  # type: ignore[misc]
    """Samples the tokens of forced requests itself and masks all others; leaves other requests unchanged."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        del device, is_pin_memory
        model = vllm_config.model_config
        self._tokenizer = cast(Tokenizer, AutoTokenizer.from_pretrained(model.tokenizer, trust_remote_code=False))
        self._vocabulary = len(cast(Any, self._tokenizer))
        self._end_ids = turn_end.end_ids(_folder_of(model.model, model.revision), self._tokenizer)
        self._context: int = model.max_model_len
        self._formats: dict[tuple[ThinkFormat, str], FormatIds] = {}
        self.rows: dict[int, tuple[ForcedRow, list[int]]] = {}
        """The forced rows of the batch, each with vLLM's own list of its output ids."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError where the forcing arguments are invalid. Whether they fit the model is checked later."""
        ForcingArgs.of(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.rows, batch_update, self._row)

    def apply(self, logits: Tensor) -> Tensor:
        """Mask all tokens but one in the rows that are forced or sampled here. `logits` is (R, V)."""
        forced, likeliest = self.choose(logits, {i: (row, len(out)) for i, (row, out) in self.rows.items()})
        # Without padding, the most likely token of an unmasked row is vLLM's choice, too.
        logits[list(likeliest), self._vocabulary :] = -torch.inf
        if forced:
            logits[list(forced)] = -torch.inf
            logits[list(forced), list(forced.values())] = 0.0
        return logits

    def choose(
        self, logits_NV: Tensor, rows: Mapping[int, tuple[ForcedRow, int]]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """The next token of each row: of some it is forced, injected or drawn by chance, of the others the likeliest.

        `rows` are keyed by the index of their logits, with the number of their ids that are out.
        """
        # 1. Which rows must emit an injected id (forced), and which sample one (drawing)?
        forced: dict[int, int] = {}
        likeliest: dict[int, int] = {}
        drawing: list[int] = []
        for i, (row, out) in rows.items():
            due = row.due(out)
            if due is None:
                drawing.append(i)
            else:
                forced[i] = due
        # 2. Sample, and let each machine replace the token, as an end of thinking that is held.
        if drawing:
            own = {i: rows[i][0] for i in drawing}
            tokens = dict(zip(drawing, self._draw(logits_NV, own), strict=True))
            measured = self._measure(logits_NV, own, tokens)
            for i, row in own.items():
                following = row.take(tokens[i], measured.get(i))
                is_likeliest = following == tokens[i] and row.rng.sampling.temperature == 0
                (likeliest if is_likeliest else forced)[i] = following
        return forced, likeliest

    def _draw(self, logits_NV: Tensor, rows: Mapping[int, ForcedRow]) -> list[int]:
        """A token for each of the rows."""
        logits_NV = logits_NV[:, : self._vocabulary]  # without padding
        own = list(rows.values())
        if any(row.rng.sampling.temperature > 0 for row in own):
            return draw(logits_NV[list(rows)], [row.rng.sampling for row in own], [row.uniform() for row in own])
        if list(rows) != list(range(len(logits_NV))):  # some, or in another order
            logits_NV = logits_NV[list(rows)]
        likeliest: list[int] = Sampler.greedy_sample(logits_NV).tolist()  # on a CPU in a fifth of torch.argmax's time
        return likeliest

    def _measure(
        self, logits_NV: Tensor, rows: Mapping[int, ForcedRow], sampled: Mapping[int, int]
    ) -> dict[int, Measured]:
        """What is measured of the rows that ask for it."""
        asking = [i for i, row in rows.items() if row.machine.measures]
        if not asking:
            return {}
        ends = [rows[i].machine.format_ids.ends for i in asking]
        if asking != list(range(len(logits_NV))):
            logits_NV = logits_NV[asking]
        found = measure(logits_NV[:, : self._vocabulary], [sampled[i] for i in asking], ends)
        return dict(zip(asking, found, strict=True))

    def _row(
        self, params: SamplingParams, prompt_ids: list[int] | None, out: list[int]
    ) -> tuple[ForcedRow, list[int]] | None:
        """The row of a new request. `out` is vLLM's own list of output ids, which grows."""
        arguments = params.extra_args or {}
        if (ours := _ROWS.get(arguments.get(TICKET, -1))) is not None:
            return ours, out
        if (known := arguments.get(ROW)) is not None:  # resumed after a preemption
            return known, out
        args = ForcingArgs.of(params)
        if args is None:
            return None
        assert prompt_ids is not None
        fmt = self._format_ids(args, prompt_ids)
        context = self._context if params.max_tokens is None else len(prompt_ids) + params.max_tokens
        room = min(self._context, context) - len(prompt_ids) - fmt.injected_tokens_max - args.answer_tokens_max
        machine = ForcingMachine(fmt, args.policy, answer_tokens_max=args.answer_tokens_max, thinking_room=max(room, 0))
        seed = secrets.randbits(63) if params.seed is None else params.seed
        sampling = Sampling(temperature=params.temperature, top_p=params.top_p, seed=seed)
        row = ForcedRow(machine, PositionalRNG(sampling, prompt_ids), prompted=0)
        arguments[ROW] = row
        return row, out

    def _format_ids(self, args: ForcingArgs, prompt_ids: list[int]) -> FormatIds:
        """Those of the request. Thinking that the prompt has opened is not opened again."""
        fmt = FORMATS[args.format]
        with suppress(TennerError):  # opened in another format or closed: the client's own prompt is kept as it is
            fmt = fmt.after(self._tokenizer.decode(prompt_ids[-TAIL_TOKENS:], skip_special_tokens=False))
        key = fmt, args.wait_text
        if key not in self._formats:
            self._formats[key] = FormatIds.resolve(self._tokenizer, fmt, args.wait_text, self._end_ids)
        return self._formats[key]


def _folder_of(model: str, revision: str | None) -> Path:
    """The folder of a model's configuration: the model's own, or the hub's cache, where vLLM has put it."""
    if Path(model).is_dir():
        return Path(model)
    found = [
        cached_file(model, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        for file in turn_end.FILES
    ]
    return Path(str(found[0])).parent


class _Running(NamedTuple):
    """A request to vLLM."""

    job: Job
    row: ForcedRow


class VLLMBatch:
    """The running jobs of a vLLM engine in this process; common prefixes are shared by its prefix cache.

    A trial answer of early exit goes on in the request of the thinking, which most often it ends. Where it does not,
    another one goes on with the thinking: the prefix cache holds all but the last block of what they have in common.
    """

    def __init__(self, llm: LLM) -> None:
        self._engine = llm.llm_engine
        self._context: int = self._engine.model_config.max_model_len
        self._running: dict[str, _Running] = {}

    def submit(self, job: Job) -> None:
        """Start the policy with the largest budget: the others share its thinking up to their own cuts."""
        machine = max(job.waiting, key=lambda machine: machine.budget)
        job.waiting.remove(machine)
        self._start(job, machine)

    def cancel(self, job: Job) -> None:
        """Drop a job and free its rows at once; no effect on a job that is done."""
        job.waiting.clear()
        tickets = [ticket for ticket, running in self._running.items() if running.job is job]
        self._engine.abort_request(tickets)
        for ticket in tickets:
            self._forget(ticket)

    def step(self) -> list[tuple[Prompt, ForcingMachine]] | None:
        """Decode a token for every row. Return the completions that finished; None where there is no work."""
        if not self._running:
            return None
        finished = []
        for output in self._engine.step():
            if output.finished and output.request_id in self._running:
                job, row = self._forget(output.request_id)
                row.finish(len(output.outputs[0].token_ids))
                machine = row.machine
                if row.thinking is not None:
                    machine = row.thinking
                    machine.conclude(row.machine)
                machine.recall()
                if machine.phase is Phase.DONE:
                    finished += [(job.prompt, done) for done in (machine, *job.take_done())]
                else:
                    self._start(job, machine)
                self._start_others(job)
        for job in {running.job for running in self._running.values() if running.job.waiting}:
            self._start_others(job)
        return finished

    def _start_others(self, job: Job) -> None:
        """Start the waiting policies whose ids no other row has: a row with the same ids samples the same tokens."""
        for machine in list(job.waiting):
            machine.recall()
            if machine.phase is not Phase.DONE and not any(
                other.job is job and other.row.machine.ids == machine.ids for other in self._running.values()
            ):
                job.waiting.remove(machine)
                self._start(job, machine)

    def _start(self, job: Job, machine: ForcingMachine) -> None:
        """Request the rest of a completion, trial answers that are due in it included."""
        number = next(_TICKETS)
        row = _ROWS[number] = ForcedRow(machine, job.rng, prompted=len(machine.ids))
        prompt_ids = [*job.prompt_ids, *machine.ids]
        tokens_max = machine.answer_tokens_max - machine.answer_tokens
        if machine.phase is Phase.THINKING:  # plus one for the end of text
            tokens_max += machine.budget - machine.thinking_tokens + machine.format_ids.injected_tokens_max + 1
        params = SamplingParams(
            temperature=0.0,  # the processor samples
            max_tokens=min(tokens_max, self._context - len(prompt_ids)),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,  # the machines have the ids
            extra_args={TICKET: number},
        )
        self._running[str(number)] = _Running(job, row)
        self._engine.add_request(str(number), TokensPrompt(prompt_token_ids=prompt_ids), params)

    def _forget(self, ticket: str) -> _Running:
        del _ROWS[int(ticket)]
        return self._running.pop(ticket)


class VLLMEngine(LocalEngine):
    """Decodes a student in a vLLM engine of this process."""

    def __init__(self, llm: LLM, tokenizer: Tokenizer, *, wait_text: str, model_dir: Path | None = None) -> None:
        context: int = llm.llm_engine.model_config.max_model_len
        super().__init__(tokenizer, wait_text=wait_text, context_tokens=context, model_dir=model_dir)
        self._llm = llm

    @property
    def exits_early(self) -> bool:
        """See `VLLMBatch`."""
        return True

    @property
    def info(self) -> EngineInfo:
        """What it computes with."""
        config = self._llm.llm_engine.vllm_config
        device = config.device_config.device_type
        return EngineInfo("vllm", str(config.model_config.dtype).removeprefix("torch."), device, ("vllm",))

    def batch(self) -> VLLMBatch:
        """A new batch; an engine has one at a time."""
        assert not self._llm.llm_engine.has_unfinished_requests(), "another batch is running"
        return VLLMBatch(self._llm)

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        rows: int = ROWS,
        wait_text: str = WAIT_TEXT,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        **options: Any,
    ) -> Self:
        """Load a model folder. `options` are further arguments of vllm.LLM.

        Raise TennerError where the folder holds no model.
        """
        if not (model_dir / "config.json").is_file():
            raise TennerError(
                f"{model_dir} is not a model folder: it has no config.json",
                hint="give the folder that save_pretrained wrote, or run the train stage first",
            )
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the machines are in this process
        defaults: dict[str, Any] = {}
        if current_platform.is_cpu():
            cache_bytes = psutil.virtual_memory().available // CPU_CACHE_DIVISOR
            # Eager: compiling takes more than a minute before the first token.
            defaults = {"block_size": CPU_BLOCK_TOKENS, "kv_cache_memory_bytes": cache_bytes, "enforce_eager": True}
        speculates = bool(options.get("speculative_config"))
        if speculates:  # drafts are verified against ids that are known
            defaults["async_scheduling"] = False
        try:
            llm = LLM(
                model=str(model_dir), dtype=dtype, max_num_seqs=rows, generation_config="vllm",
                enable_prefix_caching=True, logits_processors=None if speculates else [ForcingProcessor],
                **defaults | options,
            )  # fmt: skip
        except (TypeError, ValueError) as e:
            if not options:
                raise
            raise TennerError(
                f"vLLM rejects evaluate.vllm: {_in_one_line(e)}", hint="its keys are arguments of vllm.LLM"
            ) from e
        if speculates:
            from tenner.inference import vllm_speculation

            vllm_speculation.install(llm)
        return cls(
            llm, cast(Tokenizer, AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False)),
            wait_text=wait_text, model_dir=model_dir,
        )  # fmt: skip


def _in_one_line(error: TypeError | ValueError) -> str:
    """What is wrong with the arguments of an engine."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, (error.title, *first['loc'])))}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]
