"""A forcing machine for an engine that owns its tokens, such as vLLM: before each token it names a forced one."""

from tenner.inference.forcing import ForcingMachine, Measured, Phase
from tenner.inference.rng import PositionalRNG


class ForcedRow:
    """One completion whose ids come out of an engine one by one, the injected ones too.

    Where a trial answer is due the row goes on with it, as if it ended the thinking. Where it does not, `thinking` goes
    on as another completion.

    `take` maps a sampled token to the one that the engine must emit. The machine gets it only when the engine asks for
    the next token, since an engine may discard a sample (after a chunk of a long prompt, for example).
    """

    def __init__(self, machine: ForcingMachine, rng: PositionalRNG, *, prompted: int) -> None:
        """`prompted` of the machine's ids are part of the engine's prompt, not of its output."""
        assert prompted <= len(machine.ids)
        self.machine = machine
        self.thinking: ForcingMachine | None = None
        """What goes on after the trial answer that `machine` is; None: it is none."""
        self.rng = rng
        self._prompted = prompted
        self._drawn: tuple[int, int, Measured | None] | None = None
        self._end_of_text = machine.format_ids.end_of_text

    def due(self, out: int) -> int | None:
        """The forced id at output position `out`; None where the token is to be sampled."""
        position = self._prompted + out
        if self._drawn is not None and position > self._drawn[0]:
            self.machine.push(*self._drawn[1:])
        self._drawn = None
        if self.machine.trial_due:
            self.thinking, self.machine = self.machine, self.machine.trial()
        if position < len(self.machine.ids):
            return self.machine.ids[position]
        return self._end_of_text if self.machine.phase is Phase.DONE else None

    def uniform(self) -> float:
        """The random number of the next sampled token; 0.0 in greedy decoding."""
        return self.rng.uniform(len(self.machine.ids)) if self.rng.sampling.temperature > 0 else 0.0

    def take(self, token: int, measured: Measured | None = None) -> int:
        """The id to emit where `token` has been sampled."""
        self._drawn = len(self.machine.ids), token, measured
        following = self.machine.following(token, measured)
        return self._end_of_text if following is None else following

    def finish(self, out: int) -> None:
        """Record that the engine ended the completion: at an end of text, or the limit of the answer.

        In a format without delimiters also before a trial answer, which nothing can begin in the place of the token
        held back: `machine` is then the thinking, and its trial is due.
        """
        self.due(out)
        if self.thinking is not None and self.machine.phase is not Phase.DONE and self.machine.answer_tokens == 0:
            self.machine, self.thinking = self.thinking, None
            return
        if self.machine.phase is not Phase.DONE:  # the engine's limit came before the end of text was sampled
            self.machine.push(self._end_of_text, Measured(log_probability=0.0, end_rank=0))
        assert self.machine.phase is Phase.DONE, "the engine ended a completion too early"
