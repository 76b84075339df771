"""A student behind the server: its limits, and how a conversation becomes a request to the engine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tenner.core.chat_template import NO_KWARGS, ChatTemplate
from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import EarlyExit, Grace, Message, Policy, Sampling
from tenner.inference.job import Prompt, Request

Effort = Literal["none", "minimal", "low", "medium", "high"]
EFFORT_SHARES: dict[Effort, float] = {"none": 0.0, "minimal": 0.125, "low": 0.25, "medium": 0.5, "high": 1.0}
"""The fraction of the student's thinking budget that each effort stands for."""


class RecordedAnswer(NamedTuple):
    """What the untrained student answered to a question, with the grader's verdict."""

    thinking: str
    answer: str
    verdict: str


class ExampleQuestion(NamedTuple):
    """A question that the chat page offers."""

    question: str
    before: RecordedAnswer | None
    """None where it was not recorded."""


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
    chat_template: str | None = None
    """Set on the tokenizer when the student is loaded (see `chat_template.set_template`)."""
    chat_template_kwargs: Mapping[str, Any] = NO_KWARGS
    """The chat template's arguments of a request that sets none of its own."""
    early_exit: EarlyExit | None = None
    """This and the next: of a request that sets none."""
    grace: Grace | None = None
    examples: tuple[ExampleQuestion, ...] = ()
    """What the chat page offers to ask."""

    def policy(
        self,
        *,
        thinking_tokens_max: int | None = None,
        thinking_tokens_min: int = 0,
        waits: int = 0,
        early_exit: EarlyExit | None = None,
        grace: Grace | None = None,
    ) -> Policy:
        """The policy, with the student's own budget and early stops where none are given.

        Raise TennerError if minimum > budget.
        """
        budget = self.thinking_tokens_max if thinking_tokens_max is None else thinking_tokens_max
        if thinking_tokens_min > budget:
            raise TennerError(
                f"a minimum of {thinking_tokens_min} thinking tokens exceeds the budget of {budget}",
                hint="lower the minimum or raise the budget",
            )
        return Policy(
            thinking_tokens_max=budget, thinking_tokens_min=thinking_tokens_min, waits=waits,
            early_exit=early_exit or self.early_exit, grace=grace or self.grace,
        )  # fmt: skip

    def template(self, tokenizer: Tokenizer, chat_template_kwargs: Mapping[str, Any] = NO_KWARGS) -> ChatTemplate:
        """The chat template it is asked with. Raise TennerError where the tokenizer has none."""
        kwargs = {**self.chat_template_kwargs, **chat_template_kwargs}
        return ChatTemplate(tokenizer, system_prompt=self.system_prompt, kwargs=kwargs)

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
        chat_template_kwargs: Mapping[str, Any] = NO_KWARGS,
    ) -> Request:
        """The engine's request for the next turn of a conversation.

        `chat_template_kwargs` are the request's own, on top of the student's. Raise TennerError where one has no
        effect, or where the chat template refuses the conversation: some require alternating turns.
        """
        template = self.template(tokenizer, chat_template_kwargs)
        if chat_template_kwargs:
            template.check(self.fmt)
        prompt = template.prompt(messages)
        answer = self.answer_tokens_max if answer_tokens_max is None else answer_tokens_max
        return Request(Prompt(request_id, *prompt), policy, self.fmt, answer, sampling or Sampling(), stop)
