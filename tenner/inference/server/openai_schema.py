"""The schema of requests for OpenAI's chat completions, with tenner's additions, and of the errors that answer them.

A request may have, beyond OpenAI's own fields, `thinking`: an object of `max_tokens`, `min_tokens`, `waits` and
`early_exit`; other servers' names for the budget are understood, too. Parameters that would change the answer and are
not supported are refused: see `neutral_parameters`.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Grace, Message, Policy, Sampling, SwitchPoint
from tenner.core.suggest import did_you_mean, fields_at
from tenner.inference.server.neutral_parameters import UNSUPPORTED, RequestPart
from tenner.inference.server.served_student import Effort, ServedStudent

NUMBER_BITS = 31
SEED_BITS = 63
STOP_STRINGS_MAX = 64
STOP_CHARACTERS_MAX = 4096
"""Of all stop strings together: each token of the answer is compared with all of them."""
MESSAGES_MAX = 2048
"""Chat templates take a time that grows with the square of the number of messages."""
TEXT_PARTS = ("text", "input_text", "output_text")
THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning")


class APIError(Exception):
    """An error response in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
        kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, error: TennerError, *, code: str | None = None) -> "APIError":
        """A user's mistake, with its hint."""
        return cls(400, f"{error}. Hint: {error.hint}" if error.hint else str(error), code=code)


def _join_parts(content: object) -> object:
    """Text parts joined by newlines."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str)):
            raise ValueError("the student reads text only: every part must be {'type': 'text', 'text': …}")
    return "\n".join(part["text"] for part in content)


def _stop_strings(stop: object) -> object:
    """One string or several, as a tuple without the empty ones."""
    strings = [stop] if isinstance(stop, str) else [] if stop is None else stop
    return tuple(string for string in strings if string != "") if isinstance(strings, list) else strings


def _whole_number(value: object) -> object:
    """JSON has one kind of number: some clients write 100.0 for 100."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _limit(value: object) -> object:
    """A whole number; -1 is llama.cpp's and LM Studio's word for none."""
    whole = _whole_number(value)
    return None if whole == -1 and not isinstance(whole, bool) else whole


def _known_effort(effort: object) -> object:
    """The efforts beyond high that some models have: here there is nothing beyond the student's whole budget."""
    return "high" if effort in ("xhigh", "max") else effort


Positive = Annotated[int, Field(gt=0, lt=2**NUMBER_BITS)]
NotNegative = Annotated[int, Field(ge=0, lt=2**NUMBER_BITS), BeforeValidator(_whole_number)]


class ChatMessage(RequestPart):
    """A message of the conversation."""

    NO_EFFECT = frozenset(
        "id status cache_control name phase finish_reason "
        # an earlier answer's thinking, and what it cost
        "reasoning_details thinking thinking_blocks provider_specific_fields tenner".split()
    )
    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "type": ("text", "message"), "tool_calls": (), "function_call": (), "refusal": (), "audio": (),
        "annotations": (), "prefix": (False,),
    }  # fmt: skip

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_join_parts)]
    reasoning_content: str | None = None
    """Accepted in earlier answers, and not fed to the student again."""
    reasoning: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_earlier_answer(cls, given: object) -> object:
        """An earlier answer without its thinking; one of null was empty, as its thinking used up the limit."""
        if not isinstance(given, dict) or given.get("role") != "assistant":
            return given
        content = given.get("content", "")
        if isinstance(content, list):
            said = [part for part in content if not (isinstance(part, dict) and part.get("type") in THINKING_PARTS)]
            return given | {"content": said}
        return given | {"content": ""} if content is None else given


class EarlyExitArgs(RequestPart):
    """See `records.EarlyExit`."""

    at: SwitchPoint = EarlyExit.model_fields["at"].default
    every_tokens: Positive | None = None
    agree: Positive = EarlyExit.model_fields["agree"].default
    probability: Annotated[float | None, Field(gt=0, le=1)] = None
    trial_tokens: Positive = EarlyExit.model_fields["trial_tokens"].default

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        try:
            self.record()
        except ValidationError as e:
            raise ValueError(e.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    def record(self) -> EarlyExit:
        """The policy's part."""
        return EarlyExit(**self.model_dump())


class GraceArgs(RequestPart):
    """See `records.Grace`."""

    tokens: Positive
    candidates: Positive = Grace.model_fields["candidates"].default


class Thinking(RequestPart):
    """The thinking policy: see `records.Policy`. `type` and `budget_tokens` are Anthropic's and DeepSeek's names."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {"display": ("summarized",), "clear_thinking": (True,)}

    max_tokens: NotNegative | None = None
    min_tokens: NotNegative = 0
    waits: NotNegative = 0
    early_exit: EarlyExitArgs | None = None
    grace: GraceArgs | None = None
    type: Literal["enabled", "adaptive", "auto", "disabled"] = "enabled"
    """The student ends its thinking by itself, so `adaptive` (Anthropic) and `auto` (Volcano) are `enabled`."""
    budget_tokens: NotNegative | None = None


class Reasoning(RequestPart):
    """OpenRouter's name for the budget."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {"exclude": (False,), "summary": ("auto",)}

    effort: Annotated[Effort | None, BeforeValidator(_known_effort)] = None
    max_tokens: NotNegative | None = None
    enabled: bool = True


class StreamOptions(RequestPart):
    """What a stream reports besides the answer."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "include_obfuscation": (False,), "continuous_usage_stats": (False,),
    }  # fmt: skip

    include_usage: bool | None = None


class ChatRequest(RequestPart):
    """The body of POST /v1/chat/completions."""

    NO_EFFECT = frozenset(
        "user safety_identifier prompt_cache_key prompt_cache_retention metadata service_tier parallel_tool_calls "
        "provider timeout keep_alive priority request_id cache_salt session_id rid cache_prompt usage return_progress "
        "timings_per_token "
        # of methods that are off, as what would switch them on is refused
        "repeat_last_n dynatemp_exponent xtc_threshold mirostat_tau mirostat_eta dry_base dry_allowed_length "
        "dry_penalty_last_n dry_sequence_breakers".split()
    )
    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        # OpenAI's
        "frequency_penalty": (0,), "presence_penalty": (0,), "logprobs": (False,), "top_logprobs": (0,),
        "logit_bias": (), "tools": (), "tool_choice": ("none", "auto"), "functions": (), "function_call": ("none",),
        "response_format": ({"type": "text"},), "modalities": (["text"],), "verbosity": ("medium",),
        "text": ({"format": {"type": "text"}},), "truncation": ("disabled",), "background": (False,),
        "store": (False,), "web_search_options": (), "prediction": (), "audio": (),
        # vLLM's, SGLang's and llama.cpp's
        "top_k": (-1, 0), "min_p": (0,), "typical_p": (1,), "repetition_penalty": (1,), "length_penalty": (1,),
        "early_stopping": (False,), "slot_id": (-1,),
        "best_of": (1,), "use_beam_search": (False,), "echo": (False,), "ignore_eos": (False,), "min_tokens": (0,),
        "stop_token_ids": (), "include_stop_str_in_output": (False,), "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,), "prompt_logprobs": (), "truncate_prompt_tokens": (),
        "add_generation_prompt": (True,), "continue_final_message": (False,), "add_special_tokens": (False,),
        "include_reasoning": (True,), "separate_reasoning": (True,), "stream_reasoning": (True,),
        "return_token_ids": (False,), "return_tokens_as_token_ids": (False,), "return_hidden_states": (False,),
        "detokenize": (True,), "no_stop_trim": (False,), "safe_prompt": (False,), "num_beams": (1,), "n_predict": (-1,),
        "top_a": (0,), "tfs_z": (1,), "mirostat": (0,), "xtc_probability": (0,), "dry_multiplier": (0,),
        "epsilon_cutoff": (0,), "eta_cutoff": (0,), "penalty_alpha": (0,), "repeat_penalty": (1,), "typ_p": (1,),
        "dynatemp_range": (0,), "top_n_sigma": (-1, 0), "min_keep": (0,), "n_keep": (0,), "n_probs": (0,),
        "id_slot": (-1,), "reasoning_format": ("auto",), "post_sampling_probs": (False,), "raw": (False,),
        # DashScope's, GLM's, OpenRouter's, xAI's and LiteLLM's
        "enable_search": (False,), "incremental_output": (False,), "result_format": ("message",),
        "tool_stream": (False,), "do_sample": (True,), "route": ("fallback",), "deferred": (False,),
        "caching": (False,),
    }  # fmt: skip

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Annotated[Positive | None, BeforeValidator(_limit)] = None
    """The limit of all tokens after the prompt, thinking included."""
    max_tokens: Annotated[Positive | None, BeforeValidator(_limit)] = None
    """The older name of max_completion_tokens."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Default: 0, which is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[
        Annotated[int, Field(ge=-(2**SEED_BITS), lt=2**SEED_BITS)] | None, BeforeValidator(_whole_number)
    ] = None
    n: Annotated[Positive | None, BeforeValidator(_whole_number)] = None
    """So many answers, each sampled with a seed of its own; the server's concurrency limits it."""
    stop: Annotated[tuple[str, ...], Field(max_length=STOP_STRINGS_MAX), BeforeValidator(_stop_strings)] = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # The thinking budget, by the names of several servers; a request sets it once.
    thinking: Thinking | None = None
    reasoning_effort: Annotated[Effort | None, BeforeValidator(_known_effort)] = None
    reasoning: Reasoning | None = None
    thinking_budget: Annotated[NotNegative | None, BeforeValidator(_limit)] = None
    thinking_token_budget: Annotated[NotNegative | None, BeforeValidator(_limit)] = None
    think: Annotated[bool | Effort | None, BeforeValidator(_known_effort)] = None
    """Ollama's: on, off, or an effort."""
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """On top of the student's own. `enable_thinking` = false among them is a budget of 0."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "ChatRequest":
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        budgets = self._budgets()
        if sum(map(len, self.stop)) > STOP_CHARACTERS_MAX:
            raise ValueError(f"stop has more than {STOP_CHARACTERS_MAX:,} characters")
        if len(set(budgets.values())) > 1:
            raise ValueError(f"{' and '.join(budgets)} both set the budget: give one of them")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit, and differ")
        return self

    def _budgets(self) -> dict[str, int | Effort]:
        """The thinking budgets that the request sets, by parameter: in tokens, or as an effort."""
        thinking, reasoning = self.thinking or Thinking(), self.reasoning or Reasoning()
        given: dict[str, int | Effort | None] = {
            "thinking.max_tokens": thinking.max_tokens,
            "thinking.budget_tokens": thinking.budget_tokens,
            "thinking.type": 0 if thinking.type == "disabled" else None,
            "reasoning_effort": self.reasoning_effort,
            "reasoning.effort": reasoning.effort,
            "reasoning.max_tokens": reasoning.max_tokens,
            "reasoning.enabled": None if reasoning.enabled else 0,
            "thinking_budget": self.thinking_budget,
            "thinking_token_budget": self.thinking_token_budget,
            "think": None if self.think is True else self.think or (0 if self.think is False else None),
            "enable_thinking": 0 if self.enable_thinking is False else None,
            "chat_template_kwargs.enable_thinking": 0
            if self._template_kwargs.get("enable_thinking") is False
            else None,
        }
        return {name: 0 if budget == "none" else budget for name, budget in given.items() if budget is not None}

    @property
    def _template_kwargs(self) -> dict[str, Any]:
        return self.chat_template_kwargs or {}

    def template_kwargs(self, read: Sequence[str]) -> dict[str, Any]:
        """The arguments for a chat template that reads those in `read`.

        Whether the student thinks is the budget's to say, whatever the template would write: thinking that is switched
        off is opened and closed at once, and that it is on goes to the template only if it asks.
        """
        thinks = self._template_kwargs.get("enable_thinking")
        drops = thinks is False or (thinks is True and "enable_thinking" not in read)
        return {k: v for k, v in self._template_kwargs.items() if not (drops and k == "enable_thinking")}

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages as records; the role developer becomes system."""
        return tuple(Message(role=_ROLES.get(m.role, m.role), content=m.content) for m in self.messages)

    def samplings(self) -> list[Sampling]:
        """The sampling of each of the `n` answers; a request without a seed gets a random one."""
        first = secrets.randbits(SEED_BITS) if self.seed is None else self.seed
        return [
            Sampling(
                temperature=self.temperature or 0.0,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=(first + i + 2**SEED_BITS) % 2 ** (SEED_BITS + 1) - 2**SEED_BITS,  # beyond the largest: from below
            )
            for i in range(self.n or 1)
        ]

    def limits(self, student: ServedStudent, injected_tokens_max: int) -> tuple[Policy, int]:
        """The policy and the answer's limit; thinking, answer and injected tokens together never exceed `max_tokens`.

        A budget that is set in tokens must fit under `max_tokens`. The student's default budget, or that of an
        effort, is reduced so that the answer keeps half of the room, or its default limit where that is less.
        """
        thinking = self.thinking or Thinking()
        asked = next(iter(self._budgets().values()), None)
        early_exit = None if thinking.early_exit is None else thinking.early_exit.record()
        grace = None if thinking.grace is None else Grace(**thinking.grace.model_dump())

        def policy_of(budget: int | None) -> Policy:
            return student.policy(
                thinking_tokens_max=budget, thinking_tokens_min=thinking.min_tokens, waits=thinking.waits,
                early_exit=early_exit, grace=grace,
            )  # fmt: skip

        policy = policy_of(student.budget(asked) if isinstance(asked, str) else asked)
        total = self.max_completion_tokens or self.max_tokens
        if total is None:
            return policy, student.answer_tokens_max
        budget = policy.thinking_tokens_max
        assert budget is not None, "a student's policies have one"
        room = total - injected_tokens_max
        if not isinstance(asked, int) and room > 0:
            budget = min(budget, room - min(student.answer_tokens_max, (room + 1) // 2))
            policy = policy_of(budget)
        if room - budget < 1:
            raise TennerError(
                f"max_tokens = {total} leaves no room for an answer after {injected_tokens_max} tokens of delimiters "
                f"and {budget} of thinking",
                hint="raise max_tokens, or lower thinking.max_tokens",
            )
        return policy, room - budget


_ROLES: dict[str, Any] = {"developer": "system"}


def parse(body: bytes) -> ChatRequest:
    """Read a request. Raises APIError with its first mistake."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as e:
        raise _explain(e) from None


def _explain(error: ValidationError) -> APIError:
    first = min(
        error.errors(include_url=False), key=lambda e: e["type"] == "missing"
    )  # a misspelt name explains a missing one
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return APIError(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    if first["type"] == UNSUPPORTED:
        param = ".".join([*([param] if param else []), first["ctx"]["name"]])
        return APIError(400, f"{param}: {message}", param=param, code=UNSUPPORTED)
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(str(first["loc"][-1]), fields_at(first["loc"], ChatRequest), "")
        message = f"unknown or unsupported parameter {param}" + (f": {hint}" if hint else "")
        return APIError(400, message, param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return APIError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    return APIError(400, f"{param}: {message}" if param else message, param=param or None, code="invalid_value")
