"""Think formats and chat rendering: text in, text out. Delimiters are text; their ids come from the tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tenner.core.errors import TennerError
from tenner.core.records import Message
from tenner.core.time_limit import TimeLimitPassed, time_limit


class Tokenizer(Protocol):
    """What tenner needs of a Hugging Face tokenizer; Any stands where transformers promises more than it gives."""

    @property
    def eos_token_id(self) -> Any: ...
    @property
    def added_tokens_decoder(self) -> dict[int, Any]: ...

    def encode(self, text: str, *, add_special_tokens: bool = ..., **kwargs: Any) -> list[int]: ...
    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> Any: ...
    def get_chat_template(self) -> str: ...
    def __hash__(self) -> int: ...
    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool, **kwargs: Any
    ) -> Any: ...


class ThinkFormat(NamedTuple):
    """How thinking is marked in an assistant turn: `open` thinking `close` answer.

    `open` may be empty, and so may `close`: then only the end of text or a cut ends the thinking.
    `cue` asks for the final answer; it is put in after every cut, and after every end when there is no `close`.
    `thinking_end` is what a trained thinking ends with before `close`.
    """

    name: str
    open: str
    close: str
    cue: str
    thinking_end: str = "\n"

    def trained_segments(self, thinking: str, answer: str) -> tuple[str, str, str, str]:
        """The assistant turn as four texts: open, thinking, close, answer. Each is encoded on its own.

        The answer is led in by the cue, so that what a cut asks for is what training has shown.
        """
        return self.open, f"{thinking}{self.thinking_end}", self.close, f"{self.cue} {answer}"

    def after(self, prompt: str) -> "ThinkFormat":
        """The format as it goes on after a rendered prompt: what the chat template has opened is not opened again.

        Only what is missing of `open`, which may be whitespace, is left of it.
        Raises TennerError where the template has opened the thinking in another format, or closed it already.
        """
        said, mark = prompt.rstrip(), self.open.strip()
        if not mark:
            return self
        if said.endswith(mark):
            space, rest = prompt[len(said) :], self.open[len(self.open.rstrip()) :]
            return self._replace(open=rest.removeprefix(space) if rest.startswith(space) else "")
        for other in FORMATS.values():
            if other.open and said.endswith(other.open.strip()):
                raise TennerError(
                    f"the student's chat template opens the thinking itself, as in format {other.name}, "
                    f"and format {self.name} would open another",
                    hint=f'set format to "{other.name}"',
                )
        if self.close.strip() and said.endswith(self.close.strip()):
            raise TennerError(
                f"the student's chat template ends the thinking before it begins, and format {self.name} would open it",
                hint="turn thinking on, for most templates by chat_template_kwargs = {enable_thinking = true}, "
                'or set format to "plain"',
            )
        return self


FORMATS = {
    f.name: f
    for f in (
        ThinkFormat("s1", open="<|im_start|>think\n", close="<|im_start|>answer\n", cue="Answer:"),
        ThinkFormat("think", open="<think>\n", close="</think>\n\n", cue="Answer:"),
        ThinkFormat("plain", open="", close="", cue="\nAnswer:"),
        # OpenAI's harmony response format (gpt-oss): the thinking is a message of its own in the channel `analysis`.
        # Whatever a student says before the channel `final`, in `commentary` too, counts against the thinking budget;
        # the call of a tool ends the thinking, as its `<|call|>` is an end of text, and there are no tools.
        ThinkFormat(
            "harmony",
            open="<|channel|>analysis<|message|>",
            close="<|end|><|start|>assistant<|channel|>final<|message|>",
            cue="Answer:",
            thinking_end="",
        ),
        # Google's prompt format of Gemma 4: ai.google.dev/gemma/docs/core/prompt-formatting-gemma4
        ThinkFormat("gemma4", open="<|channel>thought\n", close="<channel|>", cue="Answer:"),
    )
}


TEMPLATE_SECONDS = 10
"""For one conversation, which takes milliseconds."""
AUTO = "auto"
"""In a recipe or option: the format that the student's chat template speaks of."""


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    system_prompt: str | None,
    kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """A conversation up to where the assistant speaks. `system_prompt` None leaves the template's own default in place.

    A system message takes the place of `system_prompt`; what was thought in earlier turns is not said again. `kwargs`
    are the chat template's own arguments, such as `enable_thinking`. Raises TennerError for a template that does not
    come to an end, and what else the template raises.
    """
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if system_prompt is not None and all(m.role != "system" for m in messages):
        turns.insert(0, {"role": "system", "content": system_prompt})
    return rendered(tokenizer, turns, add_generation_prompt=add_generation_prompt, **(kwargs or {}))


def rendered(
    tokenizer: Tokenizer, turns: list[dict[str, str]], *, add_generation_prompt: bool, **kwargs: Any
) -> str:  # fmt: skip
    """Turns as the tokenizer's chat template, or one among the arguments, renders them.

    Raises TennerError for a template that does not come to an end, and what else the template raises.
    """
    try:
        with time_limit(TEMPLATE_SECONDS):
            text: str = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **kwargs
            )
    except TimeLimitPassed as e:
        raise TennerError(
            f"the chat template runs for more than {TEMPLATE_SECONDS} seconds",
            hint="set chat_template to another one (student.chat_template, or --chat-template)",
        ) from e
    return text


def answer_text(text: str, cue: str) -> str:
    """The stated answer: what follows the last cue, or the whole text where there is none. Stripped."""
    return text.rsplit(cue.strip(), 1)[-1].strip()
