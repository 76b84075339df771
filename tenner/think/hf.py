"""The embedded engine: a Hugging Face model that decodes many completions at once under forcing, on CPU or GPU.

A row of the batch holds one completion and, in its slot of the cache, the keys and values of the ids fed so far. When
a completion is done its row goes on with another policy of the same prompt: what the two have in common is kept, and
only the tail is forgotten. So a prompt is fed once and thought through once, however many policies it serves. Rows
without work take new prompts; when there are none left they take a waiting policy off a busy row, with a copy of the
common prefix.

Every step feeds each row all the ids that it lacks (a whole prompt, a forced delimiter, or the last sampled id) end to
end as one sequence, so no padding passes through the model.

Letters in names: R rows, T tokens fed in a step, N rows fed more than one, C tokens of the longest such feed, L cached
length, H query heads, K key heads, G query heads to each key head (H = K G), D head size, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tenner.errors import TennerError
from tenner.formats import ThinkFormat, Tokenizer
from tenner.records import Policy
from tenner.think.engine import Generation, Piece, Prompt, Transcript, thinking_room
from tenner.think.forcing import ForcingMachine, FormatIds, Phase

ATTENTION_NAME = "tenner_slots"
LENGTH_STEP_TOKENS = 64
"""The cache grows by multiples of this."""
PACKED_ROWS = 64
"""The number of rows that packed weights are laid out for; others are as right, a little slower."""
PREFILL_TOKENS_MAX = 8192
"""No further prompt joins a step that feeds this many prompt tokens."""


class _Chunks(NamedTuple):
    """The rows of a step that are fed more than one id, as a padded batch."""

    rows_N: Tensor
    length: int
    source_NC: Tensor
    """Where each query lies in the step; padding repeats the row's last."""
    filled_NC: Tensor
    target_T: Tensor
    """Where the filled queries go, in order."""
    mask_N1GC_L: Tensor


class _Feed(NamedTuple):
    """Where a step's tokens belong: made once, used by every layer."""

    row_T: Tensor
    position_T: Tensor
    last_R: Tensor
    """Where each row's last token lies in the step."""
    length: int
    mask_R11L: Tensor
    """0 where a row's last token may look, -inf beyond its own position."""
    chunks: _Chunks | None


class _Slots:
    """Keys and values: one slot a row, and the attention that reads them."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self.key_heads: int = config.num_key_value_heads
        self.groups: int = config.num_attention_heads // config.num_key_value_heads
        head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._kv = torch.zeros(
            (config.num_hidden_layers, 2, 0, self.key_heads, 0, head_dim), dtype=model.dtype, device=model.device
        )

    def reserve(self, rows: int, length: int) -> None:
        """Make room for so many rows of so many tokens; what is cached stays."""
        layers, two, have_rows, heads, have_length, head_dim = self._kv.shape
        if rows <= have_rows and length <= have_length:
            return
        length = max(have_length, -(-length // LENGTH_STEP_TOKENS) * LENGTH_STEP_TOKENS)
        grown = self._kv.new_zeros((layers, two, max(rows, have_rows), heads, length, head_dim))
        grown[:, :, :have_rows, :, :have_length] = self._kv
        self._kv = grown

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot to another."""
        self.reserve(target + 1, length)
        self._kv[:, :, target, :, :length] = self._kv[:, :, source, :, :length]

    def feed(self, lengths: Sequence[int], cached: Sequence[int]) -> _Feed:
        """Plan a step that feeds row i `lengths[i]` ids after its `cached[i]`."""
        longest = max(c + n for c, n in zip(cached, lengths, strict=True))
        self.reserve(len(lengths), longest)
        device, dtype = self._kv.device, self._kv.dtype
        lengths_R, cached_R = torch.tensor(lengths), torch.tensor(cached)
        end_R = lengths_R.cumsum(0)
        row_T = torch.arange(len(lengths)).repeat_interleave(lengths_R)
        position_T = torch.arange(len(row_T)) + (cached_R - end_R + lengths_R)[row_T]

        def mask(position: Tensor, length: int) -> Tensor:
            beyond = torch.arange(length) > position[..., None]
            return torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, -torch.inf).to(device)

        chunks = None
        if len(row_T) > len(lengths):
            rows_N = (lengths_R > 1).nonzero()[:, 0]
            feed_N = lengths_R[rows_N]
            step_C = torch.arange(int(feed_N.max()))
            source_NC = (end_R - lengths_R)[rows_N][:, None] + step_C.minimum(feed_N[:, None] - 1)
            filled_NC = step_C < feed_N[:, None]
            length = int((cached_R + lengths_R)[rows_N].max())
            mask_NCL = mask(position_T[source_NC], length)
            chunks = _Chunks(
                rows_N=rows_N.to(device),
                length=length,
                source_NC=source_NC.to(device),
                filled_NC=filled_NC.to(device),
                target_T=source_NC[filled_NC].to(device),
                mask_N1GC_L=mask_NCL.repeat(1, self.groups, 1)[:, None],
            )
        return _Feed(
            row_T=row_T.to(device),
            position_T=position_T.to(device),
            last_R=(end_R - 1).to(device),
            length=longest,
            mask_R11L=mask((cached_R + lengths_R - 1)[:, None, None], longest),
            chunks=chunks,
        )

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, feed: _Feed, scaling: float
    ) -> Tensor:
        """Cache the new keys and values and attend to all of each token's row up to itself; gives (T, H, D).

        The query heads that share a key head, and the tokens of a chunk, are rows of one product, so keys and values
        are never repeated. The last token of every row reads its slot in place; only chunks gather theirs.
        """
        key_RKLD, value_RKLD = self._kv[layer]
        key_RKLD[feed.row_T, :, feed.position_T] = key_KTD.transpose(0, 1)
        value_RKLD[feed.row_T, :, feed.position_T] = value_KTD.transpose(0, 1)
        rows, heads, size = len(feed.last_R), query_HTD.shape[0], query_HTD.shape[2]
        query_THD = query_HTD.transpose(0, 1)
        chunks = feed.chunks
        query_RHD = query_THD if chunks is None else query_THD[feed.last_R]
        seen_RHD = _attend_last(
            query_RHD.reshape(rows, self.key_heads, self.groups, size),
            key_RKLD[:rows, :, : feed.length],
            value_RKLD[:rows, :, : feed.length],
            feed.mask_R11L,
            scaling,
        ).reshape(rows, heads, size)
        if chunks is None:
            return seen_RHD
        n, longest = chunks.filled_NC.shape
        query_NCKGD = query_THD[chunks.source_NC].view(n, longest, self.key_heads, self.groups, size)
        seen_NKGCD = F.scaled_dot_product_attention(
            query_NCKGD.permute(0, 2, 3, 1, 4).reshape(n, self.key_heads, -1, size),
            key_RKLD[chunks.rows_N, :, : chunks.length],
            value_RKLD[chunks.rows_N, :, : chunks.length],
            attn_mask=chunks.mask_N1GC_L.expand(-1, self.key_heads, -1, -1),
            scale=scaling,
        )
        seen_NCHD = (
            seen_NKGCD.reshape(n, self.key_heads, self.groups, longest, size)
            .permute(0, 3, 1, 2, 4)
            .reshape(n, longest, heads, size)
        )
        seen_THD = torch.empty_like(query_THD)
        seen_THD[feed.last_R] = seen_RHD
        seen_THD[chunks.target_T] = seen_NCHD[chunks.filled_NC]
        return seen_THD


def _attend_last(query_RKGD: Tensor, key_RKLD: Tensor, value_RKLD: Tensor, mask_R11L: Tensor, scaling: float) -> Tensor:
    """One query a row. On a CPU plain products take two thirds of the fused kernel's time, keys on the left."""
    if query_RKGD.device.type != "cpu":
        mask_RKGL = mask_R11L.expand(*query_RKGD.shape[:3], -1)
        return F.scaled_dot_product_attention(query_RKGD, key_RKLD, value_RKLD, attn_mask=mask_RKGL, scale=scaling)
    scores_RKLG = torch.matmul(key_RKLD, (query_RKGD * scaling).mT)
    weight_RKGL = F.softmax(scores_RKLG.mT + mask_R11L, dim=-1)
    return torch.matmul(weight_RKGL, value_RKLD)


def slot_attention(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    slots: _Slots,
    feed: _Feed,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every attention layer; `slots` and `feed` travel down as keyword arguments."""
    assert attention_mask is None
    seen_THD = slots.attend(cast(int, module.layer_idx), query_1HTD[0], key_1KTD[0], value_1KTD[0], feed, scaling)
    return seen_THD[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, slot_attention)


class _PackedLinear(nn.Module):
    """A linear layer whose weight oneDNN has laid out once, instead of anew for every product.

    In bf16 this takes half the time for 8 rows and three quarters for 64. It is what torch.compile does when it
    freezes a model for a CPU, without the compiler.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], ""))


def _can_pack() -> bool:
    """Whether this build of PyTorch has oneDNN's operators (they are private to it) and this CPU computes in bf16."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pack_linears(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, _PackedLinear(child))
        else:
            _pack_linears(child)


class _Job:
    """One prompt and the policies that it has still to be answered under."""

    def __init__(self, prompt: Prompt, prompt_ids: list[int], waiting: list[ForcingMachine]) -> None:
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.waiting = waiting

    def take_done(self) -> list[ForcingMachine]:
        """Remove and give the policies that what is known by now has answered already."""
        for machine in self.waiting:
            machine.recall()
        done = [m for m in self.waiting if m.phase is Phase.DONE]
        self.waiting = [m for m in self.waiting if m.phase is not Phase.DONE]
        return done


class _Row:
    """One completion in the making. The row's slot holds the first `cached` ids of prompt and completion."""

    def __init__(self, job: _Job, machine: ForcingMachine, cached: int) -> None:
        self.job = job
        self.machine = machine
        self.cached = cached

    @property
    def unfed(self) -> list[int]:
        beyond_prompt = self.cached - len(self.job.prompt_ids)
        if beyond_prompt >= 0:
            return self.machine.ids[beyond_prompt:]
        return self.job.prompt_ids[self.cached :] + self.machine.ids

    def shared(self, machine: ForcingMachine) -> int:
        """How many ids in the slot another machine of the same prompt could use; the last id is always fed anew."""
        prompt_tokens = len(self.job.prompt_ids)
        ids = self.machine.ids[: max(0, self.cached - prompt_tokens)]
        same = next((i for i, (a, b) in enumerate(zip(ids, machine.ids, strict=False)) if a != b), None)
        common = min(self.cached, prompt_tokens) + (min(len(ids), len(machine.ids)) if same is None else same)
        return min(common, prompt_tokens + len(machine.ids) - 1)

    def push(self, token: int) -> None:
        """Take the token sampled after all ids, which have been fed."""
        prompt_tokens = len(self.job.prompt_ids)
        fed = len(self.machine.ids)
        stands = min(fed, self.machine.push(token))
        stands = min(stands, self.machine.recall())
        self.cached = prompt_tokens + stands


class _Batch:
    """The rows being decoded, row i in slot i, and the prompts that wait for a row."""

    def __init__(self, model: PreTrainedModel, jobs: Sequence[_Job], *, rows_max: int, vocabulary: int) -> None:
        self._model = model
        self._slots = _Slots(model)
        self._queue = deque(jobs)
        self._rows: list[_Row] = []
        self._rows_max = rows_max
        self._vocabulary = vocabulary

    @torch.inference_mode()
    def step(self) -> list[tuple[Prompt, ForcingMachine]] | None:
        """Sample one token for every row. Give the completions this has finished; None when there are no more."""
        self._fill()
        if not self._rows:
            return None
        for row, token in zip(self._rows, self._sample(), strict=True):
            row.push(token)
        finished = []
        for i in reversed(range(len(self._rows))):  # from the end: a row that moves up has been looked at
            row = self._rows[i]
            if row.machine.phase is Phase.DONE:
                finished += [(row.job.prompt, machine) for machine in (row.machine, *row.job.take_done())]
                self._go_on(i)
        return finished

    def _sample(self) -> list[int]:
        """The most likely token after each row's ids."""
        unfed = [row.unfed for row in self._rows]
        feed = self._slots.feed([len(ids) for ids in unfed], [row.cached for row in self._rows])
        ids_T = torch.tensor([token for ids in unfed for token in ids], device=self._model.device)
        logits_1RV = self._model(
            input_ids=ids_T[None],
            position_ids=feed.position_T[None],
            use_cache=False,
            logits_to_keep=feed.last_R,
            slots=self._slots,
            feed=feed,
        ).logits
        # Rows of the embedding beyond the tokenizer's ids are padding: never trained, and not to be decoded.
        # The maximum with its index is twice as fast as argmax on a CPU.
        return cast(list[int], logits_1RV[0, :, : self._vocabulary].max(dim=-1).indices.tolist())

    def _go_on(self, i: int) -> None:
        """Give a row that is done the next policy of its prompt, the one that shares most with it; or free it."""
        row = self._rows[i]
        if following := self._startable(row.job, but=row):
            machine = max(following, key=row.shared)
            row.job.waiting.remove(machine)
            self._rows[i] = _Row(row.job, machine, row.shared(machine))
            return
        last = self._rows.pop()
        if last is not row:
            self._slots.copy(len(self._rows), i, last.cached)
            self._rows[i] = last

    def _startable(self, job: _Job, *, but: _Row | None = None) -> list[ForcingMachine]:
        """The waiting machines that no other row is working for: one with the same ids samples the same tokens."""
        working = [row.machine.ids for row in self._rows if row.job is job and row is not but]
        return [machine for machine in job.waiting if machine.ids not in working]

    def _fill(self) -> None:
        """Put work into the free rows: new prompts, then waiting policies of prompts in the batch."""
        prefill_tokens = 0
        while self._queue and len(self._rows) < self._rows_max and prefill_tokens < PREFILL_TOKENS_MAX:
            job = self._queue.popleft()
            self._rows.append(_Row(job, job.waiting.pop(0), cached=0))
            prefill_tokens += len(job.prompt_ids)
        if self._queue:
            return
        for source in list(self._rows):
            if source.cached == 0:
                continue  # its prompt goes through the model in the coming step, and only once
            for machine in source.job.waiting:
                machine.recall()
            while len(self._rows) < self._rows_max and (startable := self._startable(source.job)):
                self._fork(source.job, startable[0])

    def _fork(self, job: _Job, machine: ForcingMachine) -> None:
        """A new row for a waiting machine, with a copy of the longest prefix that a row of its prompt has cached."""
        source = max(
            (i for i, row in enumerate(self._rows) if row.job is job), key=lambda i: self._rows[i].shared(machine)
        )
        cached = self._rows[source].shared(machine)
        self._slots.copy(source, len(self._rows), cached)
        job.waiting.remove(machine)
        self._rows.append(_Row(job, machine, cached))


class HFEngine:
    """A causal language model of any family that goes through transformers' registry of attention functions.

    Decoding is greedy: the same prompts and policies, in the same order, give the same tokens.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, vocabulary: int, rows: int, wait_text: str
    ) -> None:
        self.tokenizer = tokenizer
        self._model = model
        self._vocabulary = vocabulary
        self._rows = rows
        self._wait_text = wait_text

    @classmethod
    def load(
        cls, model_dir: Path, *, rows: int = 64, wait_text: str = "Wait", dtype: torch.dtype = torch.bfloat16
    ) -> Self:
        """Load a model folder, onto the GPU if there is one. `rows` completions are decoded at a time.

        Raise TennerError where the folder holds no model, or one that this engine would decode wrongly.
        """
        if not (model_dir / "config.json").is_file():
            raise TennerError(
                f"{model_dir} is not a model folder: it has no config.json",
                hint="give the folder that save_pretrained wrote, or run the train stage first",
            )
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        kinds = getattr(config, "layer_types", None)
        limited = set(kinds) != {"full_attention"} if kinds else getattr(config, "sliding_window", None) is not None
        if limited:
            raise TennerError(
                f"{model_dir}: not every layer of a {config.model_type} model attends to the whole text, "
                "which the embedded engine takes for granted",
                hint="use a model with full attention, such as Llama or Qwen2.5",
            )
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        vocabulary = len(tokenizer)
        if vocabulary > config.vocab_size:
            raise TennerError(
                f"{model_dir}: the tokenizer has {vocabulary} ids but the model only {config.vocab_size}",
                hint="the tokenizer and the weights are not of the same model",
            )
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, attn_implementation=ATTENTION_NAME, local_files_only=True
        )
        if torch.cuda.is_available():
            cast(nn.Module, model).to("cuda")
        elif dtype is torch.bfloat16 and _can_pack():
            _pack_linears(model)
        return cls(model, cast(Tokenizer, tokenizer), vocabulary=vocabulary, rows=rows, wait_text=wait_text)

    def sweep(
        self, prompts: Sequence[Prompt], policies: Sequence[Policy], fmt: ThinkFormat, *, answer_tokens_max: int
    ) -> Iterator[Generation]:
        """Every prompt under every policy, each yielded as it is done. A prompt is thought through once for all.

        Raise TennerError, before anything is decoded, where a prompt leaves no room for its answer.
        """
        if not policies:
            return
        jobs = [self._job(prompt, policies, fmt, answer_tokens_max) for prompt in prompts]
        batch = _Batch(self._model, jobs, rows_max=self._rows, vocabulary=self._vocabulary)
        while (finished := batch.step()) is not None:
            for prompt, machine in finished:
                yield Generation.of(prompt.id, machine, self.tokenizer)

    def stream(self, prompt: Prompt, policy: Policy, fmt: ThinkFormat, *, answer_tokens_max: int) -> Iterator[Piece]:
        """One answer, piece by piece."""
        job = self._job(prompt, [policy], fmt, answer_tokens_max)
        transcript = Transcript(job.waiting[0], self.tokenizer)
        batch = _Batch(self._model, [job], rows_max=1, vocabulary=self._vocabulary)
        while batch.step() is not None:
            yield from transcript.fresh()

    def _job(self, prompt: Prompt, policies: Sequence[Policy], fmt: ThinkFormat, answer_tokens_max: int) -> _Job:
        format_ids = FormatIds.resolve(self.tokenizer, fmt, self._wait_text)
        prompt_ids = self.tokenizer.encode(prompt.text, add_special_tokens=False)
        assert prompt_ids, "a rendered prompt is never empty"
        room = thinking_room(
            prompt, len(prompt_ids), format_ids, answer_tokens_max, self._model.config.max_position_embeddings
        )
        first = ForcingMachine(format_ids, policies[0], answer_tokens_max=answer_tokens_max, thinking_room=room)
        return _Job(prompt, prompt_ids, [first, *(first.replay(policy) for policy in policies[1:])])
