"""Think formats and chat rendering: text in, text out. Delimiters are text; their ids come from the tokenizer."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from tenner.core.records import Message


class Tokenizer(Protocol):
    """What tenner needs of a Hugging Face tokenizer; Any stands where transformers promises more than it gives."""

    @property
    def eos_token_id(self) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> Any: ...
    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any: ...


class ThinkFormat(NamedTuple):
    """How thinking is marked in an assistant turn: `open` thinking `close` answer.

    `open` may be empty, and so may `close`: then only the end of text or a cut ends the thinking.
    `cue` asks for the final answer; it is put in after every cut, and after every end when there is no `close`.
    """

    name: str
    open: str
    close: str
    cue: str

    def trained_segments(self, thinking: str, answer: str) -> tuple[str, str, str, str]:
        """The assistant turn as four texts: open, thinking, close, answer. Each is encoded on its own.

        The answer is led in by the cue, so that what a cut asks for is what training has shown.
        """
        return self.open, f"{thinking}\n", self.close, f"{self.cue} {answer}"


FORMATS = {
    f.name: f
    for f in (
        ThinkFormat("s1", open="<|im_start|>think\n", close="<|im_start|>answer\n", cue="Answer:"),
        ThinkFormat("think", open="<think>\n", close="</think>\n\n", cue="Answer:"),
        ThinkFormat("plain", open="", close="", cue="\nAnswer:"),
    )
}


def render_prompt(tokenizer: Tokenizer, question: str, *, system_prompt: str | None) -> str:
    """The chat up to where the assistant speaks. `system_prompt` None leaves the template's own default in place."""
    return render_chat(tokenizer, [Message(role="user", content=question)], system_prompt=system_prompt)


def render_chat(tokenizer: Tokenizer, messages: Sequence[Message], *, system_prompt: str | None) -> str:
    """The same for a conversation. A system message in it takes the place of `system_prompt`; what was thought in
    earlier turns is not said again.
    """
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if system_prompt is not None and all(m.role != "system" for m in messages):
        turns.insert(0, {"role": "system", "content": system_prompt})
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def answer_text(text: str, cue: str) -> str:
    """The stated answer: what follows the last cue, or the whole text where there is none. Stripped."""
    return text.rsplit(cue.strip(), 1)[-1].strip()
