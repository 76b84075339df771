"""A student as it is spoken to: how a conversation becomes a request, and how much it may say."""

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
"""What part of the speaker's thinking budget an effort is."""


class ServedStudent(NamedTuple):
    """A student and its manners."""

    name: str
    model_dir: Path
    fmt: ThinkFormat
    system_prompt: str | None
    """None leaves the template's own in place."""
    wait_text: str
    thinking_tokens_max: int
    """Where nobody asks for another budget."""
    answer_tokens_max: int
    """Where nobody asks for another limit."""
    remembers: bool
    """Whether a question is asked with the conversation before it. A run's student has learned from single ones."""

    def policy(self, *, thinking_tokens_max: int | None = None, thinking_tokens_min: int = 0, waits: int = 0) -> Policy:
        """The policy with the speaker's own budget where none is given. Raise TennerError where it cannot be kept."""
        budget = self.thinking_tokens_max if thinking_tokens_max is None else thinking_tokens_max
        if thinking_tokens_min > budget:
            raise TennerError(
                f"it cannot think {thinking_tokens_min} tokens at least and {budget} at most",
                hint="lower the minimum or raise the budget",
            )
        return Policy(thinking_tokens_max=budget, thinking_tokens_min=thinking_tokens_min, waits=waits)

    def budget(self, effort: Effort) -> int:
        """The thinking tokens of an effort."""
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
    ) -> Request:
        """A conversation, whose last turn waits for its answer, as the engine is asked it.

        Raise TennerError where the chat template refuses it: some know no system message, some want turns to alternate.
        """
        try:
            text = render_chat(tokenizer, messages, system_prompt=self.system_prompt)
        except jinja2.TemplateError as e:
            raise TennerError(f"the chat template of {self.name} refuses this conversation: {e}") from e
        answer = self.answer_tokens_max if answer_tokens_max is None else answer_tokens_max
        return Request(Prompt(request_id, text), policy, self.fmt, answer, sampling or Sampling())
