"""Training steps bought from a service: reserved under the cap before they are sent, booked once, never paid twice."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tenner.budget.ledger import Ledger
from tenner.budget.ledger_rows import BatchRow, Line, Payee, WaitingLine
from tenner.budget.prices import TINKER, ceil_microusd
from tenner.clients.json_fields import mapping, mappings
from tenner.clients.tinker import Adam, Datum, Rejected, TinkerClient, text_field
from tenner.core.records import Usage
from tenner.core.sections import TrainingService
from tenner.core.seeds import digest

PROVIDER = TINKER
REQUEST_BYTES_MAX = 5_000_000
"""A request takes no further sample once it has so many bytes; the gradients of several add up."""
BYTES_PER_TOKEN = 30
"""Of a request: an input id, a target id and a weight, in JSON."""


PROBED = "?"
"""Among a step's request ids: a recovery may have sent a step of the optimizer, whose result was not seen."""


class Step(NamedTuple):
    """A step to be bought; `number` counts from 0."""

    number: int
    data: Sequence[Datum]
    adam: Adam

    @property
    def tokens(self) -> int:
        """That are paid: all inputs."""
        return sum(len(datum.input_ids) for datum in self.data)


class BoughtStep(NamedTuple):
    """A step that the service has made. Loss (in nats per trained token) and norm are None where it does not tell."""

    state_path: str
    """Where the service stores adapter and optimizer after it."""
    loss: float | None
    grad_norm: float | None
    seconds: float | None
    """From sending it to storing the state; None where no process waited for all of it."""
    metrics: Sequence[str]
    """The names of what the service measures at a step of the optimizer."""


class PaidSteps:
    """Buys the steps of one training, in their order.

    A step is an open batch of one call in the ledger from before it is sent until it is booked: its worst case, which
    is its exact price, stays reserved whatever ends the process. The batch is `submitting` until the service has
    accepted the gradients, and `submitted`, with the ids of those requests, from then on.
    """

    def __init__(
        self, client: TinkerClient, ledger: Ledger, service: TrainingService, *, fingerprint: str,
        say: Callable[[str], None], stage: str = "train",
    ) -> None:  # fmt: skip
        """`stage` is what the steps are booked as."""
        self._client, self._ledger, self._fingerprint, self._say = client, ledger, fingerprint, say
        self._price = service.price_usd_per_mtok
        self.payee = Payee(stage, PROVIDER, service.model, f"${self._price:g} per million tokens trained on")

    def microusd(self, tokens: int) -> int:
        """The price of a step of so many tokens: dollars per million tokens are micro-dollars per token."""
        return ceil_microusd(tokens * self._price)

    def bought(self, number: int) -> BoughtStep | None:
        """A step that was bought before."""
        stored = self._ledger.response(self._key(number))
        return BoughtStep(**json.loads(stored.body)) if stored else None

    def buy(self, step: Step, model_id: str) -> BoughtStep:
        """Let the service make a step and store its state.

        Raises:
            BudgetReached: it does not fit under the cap; nothing was sent.
            Rejected: the service refused it, or failed at it; in the second case it is booked, for it may be charged.
            TennerError: the service no longer answers; `recover` finds out what has become of the step.
        """
        batch = BatchRow(uuid.uuid4().hex, None, "submitting", time.time())
        request = json.dumps({"step": step.number, "tokens": step.tokens})
        with self._ledger.together():
            self._ledger.reserve_batch(
                self.payee, batch.token, [Line(self._key(step.number), request, self.microusd(step.tokens))]
            )
            self._ledger.mark_batch(batch)
        (line,) = self._ledger.waiting_lines(batch.token)
        accepted: list[str] = []
        began = time.monotonic()
        try:
            for data in _requests(step.data):
                accepted.append(self._client.forward_backward(model_id, data))
            batch = batch._replace(batch_id=" ".join(accepted), state="submitted")
            self._ledger.mark_batch(batch)
            update = self._client.optim_step(model_id, step.adam)
            saved = self._client.save_state(model_id, _state_name(step.number))
            outputs = self._outputs(accepted)
            metrics = _metrics(self._client.result(update))
            path = self._path(saved)
        except Rejected:
            self._close(batch, line, charged=bool(accepted))
            raise
        seconds = time.monotonic() - began
        return self._book(step, batch, line, path, outputs, metrics, seconds=seconds)

    def recover(self, find: Callable[[int], Step], old_model_id: str) -> None:
        """Find out what has become of the step that was under way when the last session ended, and book or release it.

        `find` gives a step by its number. All of this is free: what the service stores shows what it has done; and a
        step of the optimizer says by the norm of its gradients whether any were waiting for it.
        """
        for batch in self._ledger.open_batches(self.payee):
            (line,) = self._ledger.waiting_lines(batch.token)
            step = find(int(json.loads(line.request)["step"]))
            try:
                self._recover(step, batch, line, old_model_id)
            except Rejected:
                self._lose(step, batch, line)

    def _recover(self, step: Step, batch: BatchRow, line: WaitingLine, model_id: str) -> None:
        path = f"tinker://{model_id}/weights/{_state_name(step.number)}"
        request_ids = [request_id for request_id in (batch.batch_id or "").split() if request_id != PROBED]
        was_probed = PROBED in (batch.batch_id or "").split()
        try:
            before = self._save(model_id, f"before-resume-{uuid.uuid4().hex}")  # it is stored after all that was sent
        except Rejected:
            before = None  # the model is no longer in the service's memory
        if path in self._client.checkpoints(model_id):
            self._book(step, batch, line, path, self._outputs_if_kept(request_ids), {})
            return
        if before is None or (not request_ids and len(_requests(step.data)) > 1):
            self._lose(step, batch, line)
            return
        self._ledger.mark_batch(batch._replace(batch_id=" ".join([*request_ids, PROBED])))
        metrics = _metrics(self._client.result(self._client.optim_step(model_id, step.adam)))
        norm = _grad_norm(metrics)
        if norm is None or (norm == 0 and was_probed):  # an earlier probe may have used the gradients
            self._lose(step, batch, line)
        elif norm > 0:  # the gradients were received, and the step of the optimizer was not
            path = self._save(model_id, _state_name(step.number))
            self._book(step, batch, line, path, self._outputs_if_kept(request_ids), metrics)
        elif request_ids:  # both were
            self._book(step, batch, line, before, self._outputs_if_kept(request_ids), {})
        else:  # neither was
            self._close(batch, line, charged=False)

    def _save(self, model_id: str, name: str) -> str:
        return self._path(self._client.save_state(model_id, name))

    def _path(self, request_id: str) -> str:
        """Where the service has stored a state."""
        return text_field(self._client.result(request_id), "path", "save_weights")

    def _outputs(self, request_ids: Iterable[str]) -> list[Mapping[str, Any]]:
        """What the gradients' requests computed, sample by sample."""
        return [
            row for request_id in request_ids
            for row in mappings(self._client.result(request_id).get("loss_fn_outputs"))
        ]  # fmt: skip

    def _outputs_if_kept(self, request_ids: Iterable[str]) -> list[Mapping[str, Any]]:
        """The same of an earlier session; nothing where the service no longer keeps it."""
        try:
            return self._outputs(request_ids)
        except Rejected as e:
            if e.status not in (404, 410):
                raise
            return []

    def _book(
        self, step: Step, batch: BatchRow, line: WaitingLine, path: str, outputs: Sequence[Mapping[str, Any]],
        metrics: dict[str, float], *, seconds: float | None = None,
    ) -> BoughtStep:  # fmt: skip
        bought = BoughtStep(path, _loss(step.data, outputs), _grad_norm(metrics), seconds, sorted(metrics))
        with self._ledger.together():
            spend_id = self._ledger.keep(
                line.reservation, key=line.key, request=line.request,
                body=json.dumps(bought._asdict()).encode(), content_type="application/json",
            )  # fmt: skip
            self._ledger.settle(spend_id, Usage(input_tokens=step.tokens, output_tokens=0), line.microusd)
            self._ledger.close_batch(batch.token)
        return bought

    def _lose(self, step: Step, batch: BatchRow, line: WaitingLine) -> None:
        self._close(batch, line, charged=True)
        self._say(
            f"train: step {step.number + 1} was under way when the last session ended, and the service does not tell "
            "what has become of it: it is booked, and done again"
        )

    def _close(self, batch: BatchRow, line: WaitingLine, *, charged: bool) -> None:
        """Close a step that was not made; `charged`: it may have been paid all the same."""
        with self._ledger.together():
            if charged:
                self._ledger.lose(line.reservation)
            self._ledger.close_batch(batch.token)

    def _key(self, number: int) -> str:
        return digest(self._fingerprint, "step", number)


def _state_name(number: int) -> str:
    return f"step-{number + 1:06d}"


def _requests(data: Sequence[Datum]) -> list[list[Datum]]:
    """The samples of a step, in as few requests as hold them."""
    requests: list[list[Datum]] = []
    held = 0
    for datum in data:
        size = BYTES_PER_TOKEN * len(datum.input_ids)
        if not requests or held + size > REQUEST_BYTES_MAX:
            requests.append([])
            held = 0
        requests[-1].append(datum)
        held += size
    return requests


def _loss(data: Sequence[Datum], outputs: Sequence[Mapping[str, Any]]) -> float | None:
    """The loss by what each target was thought likely; the weights of a step's predictions sum to 1.

    None where the service does not tell it of every prediction: a step that was paid for is not lost by that.
    """
    logprobs: list[Any] = [mapping(row.get("logprobs")).get("data") for row in outputs]
    if not outputs or [len(datum.weights) for datum in data] != [
        len(row) if isinstance(row, list) and all(isinstance(x, int | float) for x in row) else None for row in logprobs
    ]:
        return None
    likely: float = sum(
        weight * logprob
        for datum, row in zip(data, logprobs, strict=True)
        for weight, logprob in zip(datum.weights, row, strict=True)
        if weight
    )
    return -likely


def _metrics(result: dict[str, Any]) -> dict[str, float]:
    """The numbers that the service tells of a step of the optimizer."""
    told = mapping(result.get("metrics"))
    return {name: value for name, value in told.items() if isinstance(value, int | float)}


def _grad_norm(metrics: dict[str, float]) -> float | None:
    return next((value for name, value in metrics.items() if name.rpartition("/")[2].startswith("grad_norm")), None)
