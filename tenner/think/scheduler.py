"""The scheduler: one thread that decodes all open requests of an engine as one batch."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

import torch

from tenner.errors import TennerError
from tenner.think.engine import Generation, Piece, Request, Transcript
from tenner.think.forcing import Phase
from tenner.think.hf import HFEngine, _Batch, _Job

Event = Piece | Generation | Exception | None
"""What a listener is told: pieces, and last the generation; None after a cancel; the engine's error where it failed."""


class Stream:
    """A request under way."""

    def __init__(self, scheduler: "Scheduler", job: _Job, transcript: Transcript, listener: Callable[[Event], None]):
        self._scheduler, self._job, self._transcript, self._listener = scheduler, job, transcript, listener
        self._machine = job.waiting[0]
        self.prompt_tokens = len(job.prompt_ids)

    def cancel(self) -> None:
        """Free the row before the next step; from any thread, and harmless when the answer is done."""
        self._scheduler._order("cancel", self)

    def _tell(self, scheduler: "Scheduler") -> bool:
        """Hand out what is new. Whether that was all."""
        for piece in self._transcript.fresh():
            self._listener(piece)
        if self._machine.phase is not Phase.DONE:
            return False
        self._listener(Generation.of(self._job.prompt.id, self._machine, scheduler.engine.tokenizer))
        return True


class _Order(NamedTuple):
    verb: str
    stream: Stream


class Scheduler:
    """`with Scheduler(engine) as scheduler:` requests enter and leave between any two steps."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self._batch = _Batch(engine._model, [], rows_max=engine._rows, vocabulary=engine._vocabulary)
        self._open: list[Stream] = []
        self._orders: deque[_Order] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="tenner-scheduler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def submit(self, request: Request, *, listener: Callable[[Event], None]) -> Stream:
        """Begin an answer; the listener is called in the scheduler's thread. Raise NoRoom where it cannot fit."""
        if request.sampling.temperature > 0:
            raise TennerError("this engine decodes greedily", hint="leave temperature out, or set it to 0")
        job = self.engine._job(request.prompt, [request.policy], request.fmt, request.answer_tokens_max)
        stream = Stream(self, job, Transcript(job.waiting[0], self.engine.tokenizer), listener)
        self._order("begin", stream)
        return stream

    def _order(self, verb: str, stream: Stream) -> None:
        with self._changed:
            self._orders.append(_Order(verb, stream))
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._carry_out():
                self._batch.step()
                self._open = [stream for stream in self._open if not stream._tell(self)]
        except Exception as e:  # noqa: BLE001  whatever it is, those who wait shall hear of it
            self._failure = e
        self._end(self._open, self._failure)
        with self._changed:
            self._end([order.stream for order in self._orders if order.verb == "begin"], self._failure)

    def _carry_out(self) -> bool:
        """Take in and let go whom the orders name; wait for some while there is nothing to do. False: it is over."""
        with self._changed:
            while not (self._closing or self._orders or self._open):
                self._changed.wait()
            if self._closing:
                return False
            while self._orders:
                order = self._orders.popleft()
                if order.verb == "begin":
                    self._batch._queue.append(order.stream._job)
                    self._open.append(order.stream)
                elif order.stream in self._open:
                    self._open.remove(order.stream)
                    self._drop(order.stream._job)
                    self._end([order.stream], None)
            return True

    @torch.inference_mode()
    def _drop(self, job: _Job) -> None:
        if job in self._batch._queue:
            self._batch._queue.remove(job)
            return
        for i, row in enumerate(self._batch._rows):
            if row.job is job:
                self._batch._go_on(i)
                return

    def _end(self, streams: Iterable[Stream], failure: Exception | None) -> None:
        for stream in streams:
            stream._listener(failure)
