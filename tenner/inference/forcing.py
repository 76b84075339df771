"""Budget forcing as a pure state machine over token ids: when thinking ends, and which ids are injected.

The rules:

- Thinking tokens are the ids between the delimiters, waits included, delimiters not.
- While the policy's minimum is not reached or it has waits left, and the budget has room for `wait` and one more id,
  thinking is *held*: an end of text, or the first id of `close`, is replaced by `wait`. Thinking that is no longer held
  is never held again.
- Thinking that is not held ends by itself when the whole `close` has been sampled since the last injected id, or
  at an end of text (whose id is dropped, and `close` injected). A half-sampled `close` before the end of text is
  completed; one that goes on otherwise is thinking.
- The budget counts every id after `open` as it comes, so also those of a `close` that is not complete yet. When it is
  used up, thinking is cut: a half-sampled `close` at the tail is completed, otherwise `close` is injected whole. So the
  thinking never exceeds the budget, the delimiter is never doubled, and an end is the student's own only when the last
  id of its `close` still fitted into the budget.
- `cue` follows every cut, early exit and grace, and every end in a format without `close`. The budget wins over the
  minimum and the waits.
- The answer ends at the end of text, whose id is not kept, or at its own limit (`truncated`).
- With early exit, a trial answer is due at each switch point: what would be sampled if thinking were cut there.
  Thinking that is not ended by it goes on as if there had been no trial. The switch points are, never after a
  half-sampled `close`:
  `tokens`: the first place where thinking has reached the next multiple of `every_tokens` and is not held;
  `sentence`: after a sampled id that ends a sentence, where thinking is not held;
  `wait`: where an end is about to be replaced by `wait` and the minimum is reached, and before a sampled first id of
  `wait`. The sampled id is held back while the trial runs.
- With grace, thinking that is not held ends, in the last tokens of its budget, where an end is among the most likely
  ids and another one was sampled, which is dropped. Not after a half-sampled `close`, and not in a format with neither
  `close` nor `cue`, where the answer would go on with the dropped id.

No id is ever removed: whether a sampled id is kept is decided when it is sampled. That is why the first id of `close`
decides while thinking is held. So an engine that cannot retract tokens (a logits processor) follows the same rules as
one that owns its cache, and all give the same ids. s1 does the same: its harness stops at `<|im_start|>`. Where the
first id of `close` is an ordinary one (`</` of `</think>` where that is not a single token), held thinking cannot
contain it.

Sampling is exact when the token is drawn from the model's own distribution, the end included, and then pushed: each
token is drawn with its own probability, and an end is replaced. Masking the end instead would redistribute its
probability to the other tokens, and let top-p include tokens outside the nucleus.
"""

import copy
from collections.abc import Sequence
from enum import Enum
from math import exp, inf
from typing import Literal, NamedTuple

from tenner.core.records import Intervention, Policy
from tenner.inference.format_ids import FormatIds


class Phase(Enum):
    """What the next sampled token is part of."""

    THINKING = "thinking"
    ANSWERING = "answering"
    DONE = "done"


class Measured(NamedTuple):
    """What an engine measures of the model's own distribution (temperature 1) where it samples a token."""

    log_probability: float
    """Of the sampled token, in nats."""
    end_rank: int
    """How many ids are more likely than the likeliest end of thinking (see `FormatIds.ends`)."""


class _Node:
    """A node of the trie of all continuations of one prompt: the token sampled after it, and its children by id."""

    __slots__ = ("after", "measured", "sampled")

    def __init__(self) -> None:
        self.after: dict[int, _Node] = {}
        self.sampled: int | None = None
        self.measured: Measured | None = None


class _Shared:
    """What all machines of one prompt share: the tokens sampled, and which of them come with what was measured."""

    def __init__(self) -> None:
        self.root = _Node()
        self.measures_thinking_from = inf  # tokens of thinking
        self.measures_answers = False


class ForcingMachine:
    """One completion under one policy. Usage:

        while machine.phase is not Phase.DONE:
            machine.push(token_sampled_after(prompt_ids + machine.ids))

    Where `trial_due`, a machine of early exit is not pushed to: its `trial` is run first, and given to `conclude`.
    Where it `measures`, each token is pushed with what was `Measured`.

    `ids` are all ids after the prompt, injected ones included. `thinking_room` is what the context leaves for
    thinking, in tokens; it caps the policy's own budget.
    """

    def __init__(
        self,
        format_ids: FormatIds,
        policy: Policy,
        *,
        answer_tokens_max: int,
        thinking_room: int,
        _shared: _Shared | None = None,
    ) -> None:
        assert answer_tokens_max > 0, "an answer needs room"
        assert thinking_room >= 0, "the context has no room: the prompt must be refused"
        self.format_ids = format_ids
        self.policy = policy
        self.answer_tokens_max = answer_tokens_max
        self.thinking_room = thinking_room
        own = policy.thinking_tokens_max
        self.budget = thinking_room if own is None else min(own, thinking_room)
        self.ids: list[int] = []
        self.phase = Phase.THINKING
        self.truncated = False
        self.trial_tokens = 0
        """Tokens sampled in trial answers that are no part of the completion."""
        self._next_trial = (policy.early_exit and policy.early_exit.every_tokens) or 0
        self._tried_at = -1  # the number of ids at the last trial
        self._held_back: tuple[int, Measured | None] | None = None  # sampled, and taken after the trial
        self._trial_answer: tuple[int, ...] | None = None
        self._agreeing = 0
        self._answer_log_probabilities: list[float] = []
        self._interventions: list[Intervention] = []
        self._shared = _Shared() if _shared is None else _shared
        self._reads_thinking_from = inf if policy.grace is None else self.budget - policy.grace.tokens
        self._reads_answers = policy.early_exit is not None and policy.early_exit.probability is not None
        self._shared.measures_thinking_from = min(self._shared.measures_thinking_from, self._reads_thinking_from)
        self._shared.measures_answers |= self._reads_answers
        self._path = [self._shared.root]  # the trie's node before each id, and after the last
        self._waits_left = policy.waits
        self._thinking_end: int | None = None
        self.answer_start = self._answer_sampled_start = 0
        self._inject("open", format_ids.open)
        self.thinking_start = self._run_start = len(self.ids)
        if self.budget == 0:
            self._cut()

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        return tuple(self._interventions)

    @property
    def thinking_ids(self) -> list[int]:
        """During thinking, a half-sampled `close` is part of it."""
        return self.ids[self.thinking_start : self._thinking_end]

    @property
    def thinking_tokens(self) -> int:
        end = len(self.ids) if self._thinking_end is None else self._thinking_end
        return end - self.thinking_start

    @property
    def answer_ids(self) -> list[int]:
        """The answer, an injected cue included. Empty during thinking."""
        return [] if self._thinking_end is None else self.ids[self.answer_start :]

    @property
    def answer_tokens(self) -> int:
        """Sampled answer tokens: the cue and the end of text are not counted."""
        return 0 if self._thinking_end is None else len(self.ids) - self._answer_sampled_start

    @property
    def held(self) -> bool:
        """Whether an end of thinking would be replaced now."""
        wants_more = self.thinking_tokens < self.policy.thinking_tokens_min or self._waits_left > 0
        room = self.budget - self.thinking_tokens - len(self.format_ids.wait)
        return self.phase is Phase.THINKING and wants_more and room >= 1

    @property
    def settled(self) -> int:
        """How many of the ids are known to be thinking or answer: all but a half-sampled `close`."""
        return len(self.ids) - self._half_close() if self.phase is Phase.THINKING else len(self.ids)

    @property
    def measures(self) -> bool:
        """Whether the next token is to come with what was measured, for this machine or one it shares tokens with."""
        if self.phase is Phase.THINKING:
            return self.thinking_tokens >= self._shared.measures_thinking_from
        return self._shared.measures_answers

    @property
    def answer_probability(self) -> float:
        """The geometric mean of the probabilities of the sampled answer tokens, the end of text included."""
        return exp(sum(self._answer_log_probabilities) / len(self._answer_log_probabilities))

    def push(self, token: int, measured: Measured | None = None) -> None:
        """Take the token sampled after `ids`."""
        assert self.phase is not Phase.DONE, "nothing is sampled after the end"
        assert not self.trial_due, "the trial answer comes first"
        assert measured is not None or not self._reads_measured, "this policy needs the distribution measured"
        self._path[-1].sampled, self._path[-1].measured = token, measured
        if self._is_held_back(token):
            self._held_back = token, measured
        else:
            self._take(token, measured)

    def _take(self, token: int, measured: Measured | None) -> None:
        if self.phase is Phase.ANSWERING:
            if measured is not None:
                self._answer_log_probabilities.append(measured.log_probability)
            self._push_answer(token)
        elif self._is_replaced(token):
            self._wait()
        elif token in self.format_ids.eos:
            self._end(self._half_close())
        elif self._is_dropped_in_grace(token, measured):
            self._interventions.append(Intervention(kind="grace", position=len(self.ids), tokens=0))
            self._close(0, cue=self.format_ids.cue)
        else:
            self._append(token)
            half = self._half_close()
            if 0 < half == len(self.format_ids.close):
                self._end(half)
            elif self.thinking_tokens == self.budget:
                self._cut()

    @property
    def trial_due(self) -> bool:
        """Whether a trial answer is to be decoded now."""
        early_exit = self.policy.early_exit
        if early_exit is None or self.phase is not Phase.THINKING:
            return False
        if early_exit.at == "wait":
            return self._held_back is not None
        if early_exit.at == "tokens":
            reached = self.thinking_tokens >= self._next_trial
        else:
            sampled = len(self.ids) > self._run_start
            reached = sampled and self.ids[-1] in self.format_ids.sentence_ends and self._tried_at < len(self.ids)
        return reached and not self.held and self._half_close() == 0

    @property
    def next_switch(self) -> int:
        """The number of thinking tokens at which a trial or the cut comes, if no other switch point comes before."""
        every = None if self.policy.early_exit is None else self.policy.early_exit.every_tokens
        if every is None:
            return self.budget
        return min(self.budget, max(self._next_trial, self.thinking_tokens + 1))

    @property
    def switch_ids(self) -> frozenset[int]:
        """The ids at which a trial may be due."""
        at = None if self.policy.early_exit is None or self.phase is not Phase.THINKING else self.policy.early_exit.at
        if at == "sentence":
            return self.format_ids.sentence_ends
        return frozenset(self.format_ids.wait[:1]) if at == "wait" else frozenset()

    def trial(self) -> "ForcingMachine":
        """The machine of the trial answer that is due: as this one if thinking is cut here. The two share tokens."""
        early_exit = self.policy.early_exit
        assert early_exit is not None
        assert self.trial_due
        trial = copy.copy(self)
        trial.ids, trial._path, trial._interventions = list(self.ids), list(self._path), list(self._interventions)
        trial._held_back, trial._answer_log_probabilities = None, []
        trial.answer_tokens_max = min(early_exit.trial_tokens, self.answer_tokens_max)
        trial._cut()
        trial.recall()
        return trial

    def conclude(self, trial: "ForcingMachine") -> None:
        """Take a trial that is done: the thinking ends, or goes on to the next trial."""
        early_exit = self.policy.early_exit
        assert early_exit is not None
        assert trial.phase is Phase.DONE
        answer = tuple(trial.answer_ids)
        self._agreeing = self._agreeing + 1 if answer == self._trial_answer else 1
        self._trial_answer, self._tried_at = answer, len(self.ids)
        if early_exit.every_tokens is not None:
            self._next_trial = (self.thinking_tokens // early_exit.every_tokens + 1) * early_exit.every_tokens
        held_back, self._held_back = self._held_back, None
        confident = early_exit.probability is None or trial.answer_probability >= early_exit.probability
        if self._agreeing < early_exit.agree or not confident:
            self.trial_tokens += trial.answer_tokens
            if held_back is not None:
                self._take(*held_back)
            return
        self._interventions.append(Intervention(kind="exit", position=len(self.ids), tokens=0))
        self._close(0, cue=self.format_ids.cue)
        self.recall()  # the answer begins as the trial did

    def following(self, token: int, measured: Measured | None = None) -> int | None:
        """The first id that `push(token, measured)` would add, or the trial that comes before the token; None where
        they would add none: at an end of the answer, and before a trial in a format without delimiters.
        """
        if self._is_held_back(token):
            opening = self.format_ids.close or self.format_ids.cue
            return opening[0] if opening else None
        if self._is_replaced(token):
            return self.format_ids.wait[0]
        if token not in self.format_ids.eos and not self._is_dropped_in_grace(token, measured):
            return token
        if self.phase is Phase.ANSWERING:
            return None
        closing = self.format_ids.close[self._half_close() :] or self.format_ids.cue
        return closing[0] if closing else None

    def replay(self, policy: Policy) -> "ForcingMachine":
        """The machine of another policy, advanced as far as the tokens sampled here determine it.

        The two share their sampled tokens from now on: see `recall`.
        """
        twin = ForcingMachine(
            self.format_ids,
            policy,
            answer_tokens_max=self.answer_tokens_max,
            thinking_room=self.thinking_room,
            _shared=self._shared,
        )
        twin.recall()
        return twin

    def anew(self) -> "ForcingMachine":
        """The same machine at its start, which shares no sampled token with this one."""
        return ForcingMachine(
            self.format_ids, self.policy, answer_tokens_max=self.answer_tokens_max, thinking_room=self.thinking_room
        )

    def recall(self) -> None:
        """Push what this machine or one it shares with has sampled after the very same ids: exact, as the token is a
        function of the ids before it, be it the most likely one or a draw by seed and position. So are trial answers.
        """
        while self.phase is not Phase.DONE:
            if self.trial_due:
                trial = self.trial()
                if trial.phase is not Phase.DONE:
                    return
                self.conclude(trial)
            elif (known := self._path[-1].sampled) is not None and (
                self._path[-1].measured is not None or not self._reads_measured
            ):
                self.push(known, self._path[-1].measured)
            else:  # nothing is known, or it was thinking to the other machine, which needed no measure of it
                return

    @property
    def _reads_measured(self) -> bool:
        """Whether this machine itself needs what is measured of the next token."""
        if self.phase is Phase.THINKING:
            return self.thinking_tokens >= self._reads_thinking_from
        return self._reads_answers

    def _is_replaced(self, token: int) -> bool:
        return (token in self.format_ids.eos or token in self.format_ids.close[:1]) and self.held

    def _is_held_back(self, token: int) -> bool:
        """Whether a trial comes before the token, at a switch point `wait`."""
        early_exit = self.policy.early_exit
        return (
            early_exit is not None
            and early_exit.at == "wait"
            and self.phase is Phase.THINKING
            and (token == self.format_ids.wait[0] or self._is_replaced(token))
            and self.thinking_tokens >= self.policy.thinking_tokens_min
            and self._half_close() == 0
        )

    def _is_dropped_in_grace(self, token: int, measured: Measured | None) -> bool:
        """Whether thinking ends in the place of a sampled token, as an end was likely enough."""
        grace = self.policy.grace
        if grace is None or self.phase is not Phase.THINKING or token in self.format_ids.ends:
            return False
        if self.thinking_tokens < self._reads_thinking_from:
            return False
        assert measured is not None
        return (
            bool(self.format_ids.close or self.format_ids.cue)
            and measured.end_rank < grace.candidates
            and not self.held
            and self._half_close() == 0
        )

    def _push_answer(self, token: int) -> None:
        if token in self.format_ids.eos:
            self.phase = Phase.DONE
            return
        self._append(token)
        if self.answer_tokens == self.answer_tokens_max:
            self.truncated = True
            self.phase = Phase.DONE

    def _wait(self) -> None:
        """Replace an end of thinking. Replacements for the minimum do not count as waits."""
        self._waits_left -= self.thinking_tokens >= self.policy.thinking_tokens_min
        self._inject("wait", self.format_ids.wait)
        self._run_start = len(self.ids)

    def _end(self, half: int) -> None:
        """End the thinking on the student's own end; the last `half` ids are the start of the delimiter."""
        self._close(half, cue=() if self.format_ids.close else self.format_ids.cue)

    def _cut(self) -> None:
        self._interventions.append(Intervention(kind="cut", position=len(self.ids), tokens=0))
        self._close(self._half_close(), cue=self.format_ids.cue)

    def _close(self, half: int, cue: Sequence[int]) -> None:
        """Start the answer; the last `half` ids are the start of the delimiter."""
        self._thinking_end = len(self.ids) - half
        self._inject("close", self.format_ids.close[half:])
        self.answer_start = len(self.ids)
        self._inject("cue", cue)
        self._answer_sampled_start = len(self.ids)
        self.phase = Phase.ANSWERING

    def _half_close(self) -> int:
        """The length of the longest prefix of `close` (or all of it) at the end of the ids since the last injection."""
        close = self.format_ids.close
        for length in range(min(len(close), len(self.ids) - self._run_start), 0, -1):
            if tuple(self.ids[-length:]) == close[:length]:
                return length
        return 0

    def _inject(self, kind: Literal["open", "wait", "close", "cue"], ids: Sequence[int]) -> None:
        if ids:
            self._interventions.append(Intervention(kind=kind, position=len(self.ids), tokens=len(ids)))
        for token in ids:
            self._append(token)

    def _append(self, token: int) -> None:
        self.ids.append(token)
        self._path.append(self._path[-1].after.setdefault(token, _Node()))
