"""A scheduler thread: requests from any thread join the engine's batch at any time, and stream their answers.

An exception ends the request that raises it, and no other: one that a step of the whole batch raises is looked for by
a step of each request alone, in a new batch. Where the engine does not even decode a request of its own any more, it
has failed, and every request ends with the exception.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Self

from tenner.core.formats import FORMATS
from tenner.core.records import Policy
from tenner.core.terminal import say
from tenner.inference.engine import Generation, LocalEngine, Piece, Transcript
from tenner.inference.forcing import Phase
from tenner.inference.job import Job, Prompt, Request

Event = Piece | Generation | Exception | None
"""Pieces, and last the Generation, the exception that the engine raised, or None for a cancelled stream."""
PROBE = Request(Prompt("probe", "Hi"), Policy(thinking_tokens_max=0), FORMATS["plain"], answer_tokens_max=2)
"""A request that an engine decodes unless it has failed."""


class Stream:
    """One answer. Iterating yields its pieces, and blocks between them; then `generation` is set."""

    def __init__(self, job: Job, transcript: Transcript, listener: Callable[[Event], None] | None) -> None:
        self.generation: Generation | None = None
        self.cancelled = False
        self._job = job
        self._transcript = transcript
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._notify = self._events.put if listener is None else listener

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt."""
        return len(self._job.prompt_ids)

    def cancel(self) -> None:
        """Thread-safe. The row is free before the next step, and the stream ends without a generation."""
        self.cancelled = True

    def __iter__(self) -> Iterator[Piece]:
        while isinstance(event := self._events.get(), Piece):
            yield event
        if isinstance(event, Exception):
            raise event
        self.generation = event


class Scheduler:
    """The thread that steps the batch: `with Scheduler(engine) as scheduler: scheduler.submit(request)`.

    Leaving the block cancels what is still running.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._batch = engine.batch()
        self._changed = threading.Condition()
        self._arrived: list[Stream] = []
        self._running: list[Stream] = []
        self._closing = False
        self._fault: Exception | None = None
        self._failed_together = False
        self._thread = threading.Thread(target=self._run, name="tenner scheduler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def fault(self) -> Exception | None:
        """What the engine has failed with; None: it is well."""
        with self._changed:
            return self._fault

    @property
    def streams(self) -> int:
        """The number of unfinished streams, including those that wait for a row."""
        with self._changed:
            return len(self._arrived) + len(self._running)

    def submit(self, request: Request, *, listener: Callable[[Event], None] | None = None) -> Stream:
        """Start an answer, from any thread. Raise TennerError at once where the prompt leaves no room for it.

        A `listener` is called in the scheduler's thread with every event; the stream must then not be iterated.
        """
        return self.start(self._engine.prepare(request), listener=listener)

    def start(self, job: Job, *, listener: Callable[[Event], None] | None = None) -> Stream:
        """As `submit`, for a request that `engine.prepare` has encoded."""
        (machine,) = job.waiting
        stream = Stream(job, Transcript(machine, self._engine.tokenizer, job.stop), listener)
        with self._changed:
            if self._fault is not None:
                raise self._fault
            assert not self._closing, "the scheduler is closed"
            self._arrived.append(stream)
            self._changed.notify()
        return stream

    def _run(self) -> None:
        try:
            while self._admit():
                try:
                    self._batch.step()
                except Exception as fault:  # noqa: BLE001 whatever it is, it must end one request only
                    self._isolate(fault)
                else:
                    self._failed_together = False
                for stream in list(self._running):
                    self._attempt(stream, self._report)
        except Exception as fault:  # noqa: BLE001 whatever it is, no reader may wait forever
            self._end_all(fault)
        else:
            self._end_all(None)

    def _admit(self) -> bool:
        """Wait for work, submit new streams and drop cancelled ones. False: the scheduler is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._arrived or self._running)
            arrived, self._arrived = self._arrived, []
            self._running += arrived
        for stream in arrived:
            self._attempt(stream, self._submit)
        for stream in [s for s in self._running if s.cancelled]:
            self._batch.cancel(stream._job)
            self._end(stream, None)
        return not self._closing

    def _attempt(self, stream: Stream, part: Callable[[Stream], None]) -> None:
        """Do a part of the work for one stream; an exception ends it."""
        try:
            part(stream)
        except Exception as fault:  # noqa: BLE001 whatever it is, the other streams go on
            self._batch.cancel(stream._job)
            self._end_by_fault(stream, fault)

    def _submit(self, stream: Stream) -> None:
        self._batch.submit(stream._job)

    def _isolate(self, fault: Exception) -> None:
        """Go on with a new batch, without the streams that raise an exception when they are decoded alone.

        Raises the exception where the engine has failed.
        """
        try:
            self._renew_batch([])
            self._probe()
        except Exception as failure:
            raise fault from failure
        running = list(self._running)
        alone = [stream for stream in running if self._decodes_alone(stream)]
        if self._failed_together and len(alone) == len(running):
            raise fault  # each is decoded alone, but not together, and that for the second time
        self._failed_together = len(alone) == len(running)
        self._renew_batch(alone)

    def _decodes_alone(self, stream: Stream) -> bool:
        """Take a step for one stream in a new batch, and end it where that raises an exception."""
        try:
            self._renew_batch([stream])
            self._batch.step()
        except Exception as fault:  # noqa: BLE001 this is the one
            self._end_by_fault(stream, fault)
            return False
        return True

    def _renew_batch(self, streams: Sequence[Stream]) -> None:
        """Replace the batch by one of these running streams, each of which goes on where it is."""
        for stream in self._running:
            with suppress(Exception):  # the batch may be broken; an engine that is raises again below
                self._batch.cancel(stream._job)
        self._batch = self._engine.batch()
        for stream in streams:
            machine = stream._transcript.machine
            if machine.phase is not Phase.DONE:
                stream._job.waiting = [machine]
                self._batch.submit(stream._job)

    def _probe(self) -> None:
        """Decode a request of our own. Raises what the engine does."""
        job = self._engine.prepare(PROBE)
        self._batch.submit(job)
        try:
            while self._batch.step() is not None:
                pass
        finally:
            self._batch.cancel(job)

    def _report(self, stream: Stream) -> None:
        transcript = stream._transcript
        for piece in transcript.fresh():
            stream._notify(piece)
        if transcript.done:
            self._batch.cancel(stream._job)  # no effect but where a stop string ended it
            self._end(stream, transcript.generation(stream._job.prompt.id))

    def _end_by_fault(self, stream: Stream, fault: Exception) -> None:
        name = stream._job.prompt.id
        say(f"request {name} ended by {type(fault).__name__}: {fault}".splitlines()[0], file=sys.stderr)
        self._end(stream, fault)

    def _end(self, stream: Stream, event: Event) -> None:
        with self._changed:
            self._running.remove(stream)
        stream._notify(event)

    def _end_all(self, fault: Exception | None) -> None:
        with self._changed:
            self._closing, self._fault = True, fault
            streams = self._running + self._arrived
            self._running, self._arrived = [], []
        for stream in streams:
            stream._notify(fault)
