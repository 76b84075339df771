"""A scheduler thread: requests from any thread join the engine's batch at any time, and stream their answers."""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Self

from tenner.inference.engine import Generation, LocalEngine, Piece, Transcript
from tenner.inference.job import Job, Request

Event = Piece | Generation | Exception | None
"""Pieces, and last the Generation, the exception that the engine raised, or None for a cancelled stream."""


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
    def streams(self) -> int:
        """The number of unfinished streams, including those that wait for a row."""
        with self._changed:
            return len(self._arrived) + len(self._running)

    def submit(self, request: Request, *, listener: Callable[[Event], None] | None = None) -> Stream:
        """Start an answer, from any thread. Raise TennerError at once where the prompt leaves no room for it.

        A `listener` is called in the scheduler's thread with every event; the stream must then not be iterated.
        """
        job = self._engine.prepare(request)
        (machine,) = job.waiting
        stream = Stream(job, Transcript(machine, self._engine.tokenizer, request.stop), listener)
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
                self._batch.step()
                for stream in list(self._running):
                    self._report(stream)
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
            self._batch.submit(stream._job)
        for stream in [s for s in self._running if s.cancelled]:
            self._batch.cancel(stream._job)
            self._end(stream, None)
        return not self._closing

    def _report(self, stream: Stream) -> None:
        transcript = stream._transcript
        for piece in transcript.fresh():
            stream._notify(piece)
        if transcript.done:
            self._batch.cancel(stream._job)  # no effect but where a stop string ended it
            self._end(stream, transcript.generation(stream._job.prompt.id))

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
