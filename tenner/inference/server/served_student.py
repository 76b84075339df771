"""A student behind the server: its limits, and how a conversation becomes a request to the engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jinja2

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer, render_chat
from tenner.core.records import Message, Policy, Sampling
from tenner.inference.job import Prompt, Request

Effort = Literal["none", "minimal", "low", "medium", "high"]
EFFORT_SHARES: dict[Effort, float] = {"none": 0.0, "minimal": 0.125, "low": 0.25, "medium": 0.5, "high": 1.0}
"""The fraction of the student's thinking budget that each effort stands for."""


class ServedStudent(NamedTuple):
    """A student and the defaults it is served with."""

    name: str
    model_dir: Path
    fmt: ThinkFormat
    system_prompt: str | None
    """None keeps the default of the chat template."""
    wait_text: str
    thinking_tokens_max: int
    """The budget of a request that sets none."""
    answer_tokens_max: int
    """The limit of a request that sets none."""
    keeps_history: bool
    """Whether clients should send the conversation so far. A run's student was trained on single questions."""

    def policy(self, *, thinking_tokens_max: int | None = None, thinking_tokens_min: int = 0, waits: int = 0) -> Policy:
        """The policy, with the student's own budget where none is given. Raise TennerError if minimum > budget."""
        budget = self.thinking_tokens_max if thinking_tokens_max is None else thinking_tokens_max
        if thinking_tokens_min > budget:
            raise TennerError(
                f"a minimum of {thinking_tokens_min} thinking tokens exceeds the budget of {budget}",
                hint="lower the minimum or raise the budget",
            )
        return Policy(thinking_tokens_max=budget, thinking_tokens_min=thinking_tokens_min, waits=waits)

    def budget(self, effort: Effort) -> int:
        """The thinking budget of an effort, in tokens."""
        return round(EFFORT_SHARES[effort] * self.thinking_tokens_max)

    def request(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        policy: Policy,
        *,
        request_id: str,
        answer_tokens_max: int | None = None,
        sampling: Sampling | None = None,
        stop: tuple[str, ...] = (),
    ) -> Request:
        """The engine's request for the next turn of a conversation.

        Raise TennerError where the chat template refuses it: some have no system role, some require alternating turns.
        """
        try:
            text = render_chat(tokenizer, messages, system_prompt=self.system_prompt)
        except jinja2.TemplateError as e:
            raise TennerError(f"the chat template of {self.name} refuses this conversation: {e}") from e
        answer = self.answer_tokens_max if answer_tokens_max is None else answer_tokens_max
        return Request(Prompt(request_id, text), policy, self.fmt, answer, sampling or Sampling(), stop)
