"""How a student is asked: a conversation rendered by its chat template, in which control tokens are the template's."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
import jinja2.nodes

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, ThinkFormat, Tokenizer, render_chat
from tenner.core.records import Message
from tenner.core.suggest import did_you_mean

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "plain": (
        "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] }}"
        "{{ eos_token if m['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}
"""Chat templates by name, for a model that has none. `chatml` needs its two control tokens, `plain` an end of text."""
TEMPLATE_CHARACTERS_MAX = 50_000
"""The longest known, GigaChat 3.5's, has 40,000. At worst 100,000 take three seconds to compile."""
NO_KWARGS: Mapping[str, Any] = MappingProxyType({})
RESERVED = {
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "sanitize_control_tokens", "tokenizer_kwargs", "load_audio_from_video",
}  # fmt: skip
"""What tenner or the tokenizer's own function sets."""
REFUSALS = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
    MemoryError, SyntaxError, NameError,
)  # fmt: skip
"""What a template raises over a conversation: Jinja's own errors, and Python's over what the template computes, or
over the program that Jinja makes of it, as of a `break` outside of a loop or of the number 1e999."""
PRIVATE_USE = range(0xE000, 0xF900)
GENERATION = re.compile(r"\{%-?\+? *(end)?generation *-?%\}")
"""A tag of transformers that Jinja does not know; it renders nothing."""
PROMPT_PROBE, PROBE = "Probe-2750", "Probe-4187"
"""Stand for what a user and an assistant write where only the template's own text is looked at."""
JINJA_NAMES = {"raise_exception", "strftime_now", "namespace", "range", "dict", "lipsum", "cycler", "joiner"}
TOKEN_NAMES = {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

Span = tuple[int, int]


class PromptText(NamedTuple):
    """A rendered prompt. In the spans `literal` (start, end) a control token is text that somebody wrote."""

    text: str
    literal: tuple[Span, ...] = ()


class ChatTemplate:
    """A tokenizer's chat template with the system prompt and the arguments that a student is asked with.

    A template that has no system role gets the system prompt at the start of the first user turn (see `notes`).
    """

    def __init__(
        self, tokenizer: Tokenizer, *, system_prompt: str | None = None, kwargs: Mapping[str, Any] = NO_KWARGS
    ) -> None:
        """Raises TennerError where the tokenizer has no chat template."""
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.kwargs = dict(kwargs)
        self._source = source_of(tokenizer)

    def check(self, *formats: ThinkFormat) -> None:
        """Raise TennerError for an argument without effect, or a format that does not go with the template."""
        for name in self.kwargs:
            self._check_argument(name)
        prompt = self.question(PROMPT_PROBE)
        if PROMPT_PROBE not in prompt.text:
            raise TennerError("the student's chat template leaves out what the user says", hint="choose another one")
        for fmt in formats:
            fmt.after(prompt.text)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should be told, in a line each."""
        if not self.system_prompt or not self._render([Message(role="user", content=PROMPT_PROBE)])[1]:
            return ()
        return ("the student's chat template has no system role: the system prompt begins the first user turn",)

    @property
    def arguments(self) -> list[str]:
        """The arguments that the template reads."""
        read = jinja2.meta.find_undeclared_variables(parsed(self._source))
        return sorted(read - RESERVED - JINJA_NAMES - TOKEN_NAMES)

    def question(self, text: str) -> PromptText:
        """The prompt of a single question, up to where the assistant speaks."""
        return self.prompt([Message(role="user", content=text)])

    def prompt(self, messages: Sequence[Message]) -> PromptText:
        """The prompt of a conversation. Raises TennerError where the template refuses it."""
        pattern = _control_tokens(self.tokenizer, self._source)
        written = [m.content for m in messages] + [self.system_prompt or ""]
        if not any(pattern.search(text) for text in written):
            return PromptText(self._render(messages)[0])
        # Control tokens that somebody wrote are put between two characters that nobody wrote, and found again.
        before, after = _unwritten_characters(written)

        def marked(text: str) -> str:
            return pattern.sub(lambda found: f"{before}{found[0]}{after}", text)

        template = ChatTemplate(
            self.tokenizer, system_prompt=self.system_prompt and marked(self.system_prompt), kwargs=self.kwargs
        )
        rendered, _ = template._render([m.model_copy(update={"content": marked(m.content)}) for m in messages])
        return _unmarked(rendered, before, after, pattern)

    def turn_end_id(self, ends: frozenset[int]) -> int:
        """The id that ends an assistant's turn: the first of `ends`, else the first control token, after its text.

        Where the template closes a turn by what begins the next one, as GLM's does, it is that; where it does not
        close it at all, the tokenizer's end of text. Raises TennerError where there is none.
        """
        user, assistant = Message(role="user", content=PROMPT_PROBE), Message(role="assistant", content=PROBE)
        alone = self._closing_ids([user, assistant])
        known = [i for i in alone if i in ends] + [i for i in alone if i in self.tokenizer.added_tokens_decoder]
        known += [i for i in self._closing_ids([user, assistant, user]) if i in ends]
        if self.tokenizer.eos_token_id is not None:
            known.append(self.tokenizer.eos_token_id)
        if not known:
            raise TennerError(
                "the student's chat template does not mark the end of an answer",
                hint="choose a chat (instruct) model, or give a local folder whose chat template closes each turn",
            )
        return int(known[0])

    def _closing_ids(self, messages: list[Message]) -> list[int]:
        """The ids that follow the assistant's text."""
        try:
            text = render_chat(
                self.tokenizer, messages, system_prompt=None, kwargs=self.kwargs, add_generation_prompt=False
            )
        except REFUSALS:
            return []
        _, found, after = text.rpartition(PROBE)
        return self.tokenizer.encode(after, add_special_tokens=False) if found else []

    def _render(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """The text, and whether the system prompt is in a user's turn since the template refuses or drops it."""
        system = next((m.content for m in messages if m.role == "system"), self.system_prompt)
        refused: Exception | None = None
        try:
            text = render_chat(self.tokenizer, messages, system_prompt=self.system_prompt, kwargs=self.kwargs)
            if not system or system.strip() in text:
                return text, False
        except REFUSALS as e:
            refused = e
        try:
            if system is None and refused is not None:
                raise refused
            folded = _folded(messages, system or "")
            return render_chat(self.tokenizer, folded, system_prompt=None, kwargs=self.kwargs), bool(system)
        except REFUSALS as e:
            reason = " ".join(str(e).split()) or type(e).__name__
            raise TennerError(f"the student's chat template refuses this conversation: {reason}") from e

    def _check_argument(self, name: str) -> None:
        """Raise TennerError where an argument changes nothing and is not the template's own default either."""
        tree, read = parsed(self._source), self.arguments
        value, hint = self.kwargs[name], f"the template reads {', '.join(read)}" if read else "the template reads none"
        if name in RESERVED:
            raise TennerError(f"chat_template_kwargs: {name} is set by tenner itself", hint="leave it out")
        if name not in read:
            hint = did_you_mean(name, read, hint)
            raise TennerError(f"chat_template_kwargs: {name} has no effect on the student's chat template", hint=hint)
        others = {key: v for key, v in self.kwargs.items() if key != name}
        without = self._probes(others)
        if self._probes(self.kwargs) != without:
            return
        # A default that is said changes nothing either: its opposite does, or the template names it.
        if isinstance(value, bool) and self._probes(others | {name: not value}) != without:
            return
        if value in [node.value for node in tree.find_all(jinja2.nodes.Const)] and not isinstance(value, bool):
            return
        raise TennerError(
            f"chat_template_kwargs: {name} = {json.dumps(value, default=str)} changes nothing for the student",
            hint=hint,
        )

    def _probes(self, kwargs: Mapping[str, Any]) -> list[str]:
        """What the template makes of conversations of several kinds."""
        user, system = Message(role="user", content=PROMPT_PROBE), Message(role="system", content="Probe-5023")
        assistant = Message(role="assistant", content=f"<think>\nProbe-6911\n</think>\n\n{PROBE}")
        found = []
        for messages in ([user], [system, user], [user, assistant, user]):
            try:
                found.append(render_chat(self.tokenizer, messages, system_prompt=None, kwargs=kwargs))
            except REFUSALS as e:
                found.append(str(e))
        return found


def set_template(tokenizer: Any, template: str | None) -> None:
    """Give a tokenizer a chat template: one of TEMPLATES by name, or the text of a file; None leaves its own.

    Raises TennerError where there is none of this name, or where the tokenizer lacks the control tokens of `chatml`.
    """
    if template is None:
        return
    if template in TEMPLATES:
        tokenizer.chat_template = TEMPLATES[template]
        known = {token.content for token in tokenizer.added_tokens_decoder.values()}
        lacks = {"<|im_start|>", "<|im_end|>"} - known if template == "chatml" else set()
        if lacks:
            raise TennerError(
                f"chat_template: the student's tokenizer has no {min(lacks)}, which chatml needs",
                hint='set chat_template to "plain", or to a file with a template of the model\'s own tokens',
            )
        return
    try:
        tokenizer.chat_template = Path(template).expanduser().read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as e:  # no text, no path, no such user's home
        raise TennerError(
            f"chat_template: {template} is neither a file that can be read nor one of {', '.join(TEMPLATES)}",
        ) from e
    parsed(source_of(tokenizer))


def source_of(tokenizer: Tokenizer) -> str:
    """The text of a tokenizer's chat template. Raises TennerError where it has none, or one that is too long."""
    try:
        source = tokenizer.get_chat_template()
    except ValueError as e:
        raise TennerError(
            "the student's tokenizer has no chat template, as that of a base model",
            hint=f"set chat_template to one of {', '.join(TEMPLATES)} or to a file, or choose a chat (instruct) model",
        ) from e
    if len(source) > TEMPLATE_CHARACTERS_MAX:
        raise TennerError(
            f"the chat template has {len(source):,} characters, more than {TEMPLATE_CHARACTERS_MAX:,}",
            hint="set chat_template to a shorter one (student.chat_template, or --chat-template)",
        )
    return source


def detected_format(tokenizer: Tokenizer) -> ThinkFormat | None:
    """The think format that a chat template speaks of; None where that is not certain."""
    source = source_of(tokenizer)
    found = [
        fmt
        for fmt in FORMATS.values()
        if fmt.open and fmt.close and fmt.open.strip() in source and fmt.close.split("<|start|>")[0].strip() in source
    ]
    return found[0] if len(found) == 1 else None


def encode_prompt(tokenizer: Tokenizer, prompt: PromptText) -> list[int]:
    """The ids of a prompt. Without literal spans they are those of the whole text.

    A stretch between two of the template's tokens that has a literal span is encoded in one piece and without control
    tokens. Raises TennerError where the tokenizer makes one of it all the same.
    """
    text, ids, done = prompt.text, list[int](), 0
    if not prompt.literal:
        return tokenizer.encode(text, add_special_tokens=False)
    for start, end in _stretches(tokenizer, prompt):
        ids += tokenizer.encode(text[done:start], add_special_tokens=False)
        ids += _encode_as_text(tokenizer, text[start:end], at_start=start == 0)
        done = end
    return ids + tokenizer.encode(text[done:], add_special_tokens=False)


def _stretches(tokenizer: Tokenizer, prompt: PromptText) -> Iterator[Span]:
    """The stretches between added tokens, ends of the text included, that hold a literal span."""
    tokens = sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
    patterns = (
        (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
        for token in tokens
    )
    borders = [0]
    for found in re.finditer("|".join(patterns), prompt.text):
        if not any(start < found.end() and found.start() < end for start, end in prompt.literal):
            borders += found.span()
    borders.append(len(prompt.text))
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        if any(start <= first < end for first, _ in prompt.literal):
            yield start, end


def _encode_as_text(tokenizer: Tokenizer, text: str, *, at_start: bool) -> list[int]:
    """The ids of a text in which no added token is one."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    else:
        text = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        pieces = [text]
        if backend.pre_tokenizer is not None:
            pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
            if not at_start and getattr(backend.pre_tokenizer, "prepend_scheme", None) == "first":
                pieces[0] = pieces[0].removeprefix(backend.pre_tokenizer.replacement)  # the space of a text's start
        ids = [token.id for piece in pieces if piece for token in backend.model.tokenize(piece)]
    if control := special_ids(tokenizer).intersection(ids):
        token = tokenizer.added_tokens_decoder[min(control)].content
        raise TennerError(
            f"the tokenizer cannot write {token} as text, and it stands in a question", hint="take it out of there"
        )
    return ids


@lru_cache(maxsize=16)
def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of a tokenizer's special tokens, such as the ends of text and turn."""
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: Tokenizer, source: str) -> re.Pattern[str]:
    """Matches the tokens that steer a chat: special ones, those that the template writes, and think delimiters.

    Other added tokens, as of indentation or HTML, are ordinary text.
    """
    marks = "\0".join([source, *(part for fmt in FORMATS.values() for part in (fmt.open, fmt.close))])
    found = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content in marks and not token.content.isspace())
    ]
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)")


def _unwritten_characters(written: Sequence[str]) -> tuple[str, str]:
    """Two characters of the private use area that are in none of the texts."""
    used = set().union(*written)
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
    return next(free), next(free)


def _unmarked(rendered: str, before: str, after: str, pattern: re.Pattern[str]) -> PromptText:
    """The text without marks, and where the marked tokens are; some templates cut texts, and leave a mark alone."""
    text, literal = "", []
    for piece in re.split(f"({before}(?:{pattern.pattern}))", rendered):
        bare = piece.replace(before, "").replace(after, "")
        if piece != bare and pattern.fullmatch(bare):
            literal.append((len(text), len(text) + len(bare)))
        text += bare
    return PromptText(text, tuple(literal))


def _folded(messages: Sequence[Message], system: str) -> list[Message]:
    """The conversation without its system message, and `system` at the start of the first user turn."""
    turns = [m for m in messages if m.role != "system"]
    first = next((i for i, m in enumerate(turns) if m.role == "user"), None)
    if system and first is not None:
        turns[first] = turns[first].model_copy(update={"content": f"{system}\n\n{turns[first].content}"})
    return turns


@lru_cache(maxsize=16)
def parsed(source: str) -> jinja2.nodes.Template:
    """The syntax tree of a chat template. Raises TennerError where it is not valid Jinja."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        tree = environment.parse(GENERATION.sub("", source))
        jinja2.meta.find_undeclared_variables(tree)  # which finds what the parser does not, as unknown filters
    except jinja2.TemplateSyntaxError as e:
        raise TennerError(f"the chat template is not valid Jinja: line {e.lineno}: {e.message}") from e
    except (ValueError, RecursionError) as e:  # a number of thousands of digits, thousands of brackets
        raise TennerError(f"the chat template is not valid Jinja: {e}") from e
    return tree
