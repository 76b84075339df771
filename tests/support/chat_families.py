"""Small chat templates that behave as those of today's model families, each on a tiny BPE tokenizer with its tokens.

They are written for these tests: what they do is the families', their text is not.
"""

import json
from functools import cache
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "What is 2 + 2? Be brief. The answer is 4, since two and two are four.",
    "user assistant system think answer model developer final analysis message channel start end thought",
    "Reasoning effort: low medium high. You are a helpful assistant. So what is asked here? Hi there!",
]

CHATML_TURNS = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + text(m) + '<|im_end|>\n' }}{%- endfor %}"
WITHOUT_THINKING = (
    "{%- macro text(m) %}{%- if m.role == 'assistant' and '</think>' in m.content %}"
    "{{- m.content.split('</think>')[-1].lstrip('\n') }}{%- else %}{{- m.content }}{%- endif %}{%- endmacro %}"
)
QWEN3 = (
    WITHOUT_THINKING + CHATML_TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
QWEN35 = (
    WITHOUT_THINKING + CHATML_TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- else %}{{- '<think>\n' }}{%- endif %}{%- endif %}"
)
QWEN35_SMALL = QWEN35.replace("enable_thinking is defined and not enable_thinking", "not enable_thinking")
"""As the smallest ones: thinking is off unless it is asked for."""
QWEN38 = (
    "{%- set effort = reasoning_effort | default('xhigh') %}"
    "{%- set words = {'xhigh': 'Think as long as it takes.', 'medium': '', 'low': 'Think little.'}[effort] %}"
    "{%- set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{%- set head = (words + '\n' + system) | trim %}"
    "{%- if head %}{{- '<|im_start|>system\n' + head + '<|im_end|>\n' }}{%- endif %}"
    + WITHOUT_THINKING
    + "{%- for m in messages if m.role != 'system' %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{{- (m.content if preserve_thinking | default(true) else text(m)) + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
R1_DISTILL = (
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content }}"
    "{%- elif m.role == 'user' %}{{- '<｜User｜>' + m.content }}"
    "{%- else %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\n' }}{%- endif %}"
)
GPT_OSS = (
    "{%- set effort = reasoning_effort if reasoning_effort is defined else 'medium' %}"
    "{{- '<|start|>system<|message|>Reasoning: ' + effort + '<|end|>' }}"
    "{%- for m in messages %}{%- if m.role == 'system' %}"
    "{{- '<|start|>developer<|message|># Instructions\n\n' + m.content + '<|end|>' }}"
    "{%- elif m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}"
    "{%- else %}{%- if '<|channel|>analysis<|message|>' in m.content %}{{- raise_exception('use reasoning') }}"
    "{%- endif %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
GEMMA3 = (
    "{{- bos_token }}{%- set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{%- set turns = messages[1:] if system else messages %}{%- for m in turns %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{- (system if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)
GEMMA2 = GEMMA3.replace(
    "{%- set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}",
    "{%- set system = '' %}{%- if messages[0].role == 'system' %}{{- raise_exception('no system role') }}{%- endif %}",
)
GEMMA4 = (
    "{{- bos_token }}{%- set has_system = messages[0].role == 'system' %}{%- if enable_thinking or has_system %}"
    "{{- '<|turn>system\n' }}{%- if enable_thinking %}{{- '<|think|>\n' }}{%- endif %}"
    "{{- messages[0].content | trim if has_system else '' }}{{- '<turn|>\n' }}{%- endif %}"
    "{%- for m in messages if m.role != 'system' %}{{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) }}"
    "{{- '\n' + (m.content.split('<channel|>')[-1] if m.role == 'assistant' else m.content) | trim }}"
    "{{- '<turn|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|turn>model\n' }}"
    "{%- if not enable_thinking %}{{- '<|channel>thought\n<channel|>' }}{%- endif %}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{- m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GLM = (
    "[gMASK]<sop>{%- for m in messages %}{{- '<|' + m.role + '|>\n' }}"
    "{{- m.content.split('</think>')[-1].strip() if m.role == 'assistant' else m.content }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}"
    "{{- '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{%- endif %}"
)
SMOLLM3 = (
    "{%- set thinks = enable_thinking | default(true) %}{%- set own = '' %}"
    "{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}{%- endif %}"
    "{{- '<|im_start|>system\nReasoning mode: ' + ('/think' if thinks else '/no_think') + '\n' }}"
    "{{- own + '<|im_end|>\n' }}"
    "{%- for m in messages if m.role != 'system' %}{%- if m.role == 'assistant' %}{%- generation %}"
    "{{- '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}{%- endgeneration %}"
    "{%- else %}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' + ('' if thinks else '<think>\n\n</think>\n') }}"
    "{%- endif %}"
)
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class Family(NamedTuple):
    """A family's template, its tokens, how it is asked here, and what its own server then sees of its turn."""

    template: str
    format: str
    kwargs: dict[str, Any]
    special: tuple[str, ...]
    added: tuple[str, ...]
    """Tokens that are not special: decoding never skips them."""
    eos: str
    """The tokenizer's own."""
    ends: tuple[str, ...]
    """Those of generation_config."""
    opened: str
    """With what the prompt ends."""
    said: str
    """The turn that is sampled after it; {T} is the thinking, and {A} the answer."""
    bos: str | None = None
    sentencepiece: bool = False


THINK = ("<think>", "</think>")
FAMILIES = {
    "qwen3": Family(
        QWEN3, "think", {}, CHATML_TOKENS, THINK, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
        "<|im_start|>assistant\n", "<think>\n{T}\n</think>\n\nAnswer: {A}<|im_end|>",
    ),
    "qwen3.5": Family(
        QWEN35, "think", {}, CHATML_TOKENS, THINK, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
        "<|im_start|>assistant\n<think>\n", "{T}\n</think>\n\nAnswer: {A}<|im_end|>",
    ),
    "qwen3.5 small": Family(
        QWEN35_SMALL, "think", {"enable_thinking": True}, CHATML_TOKENS, THINK, "<|im_end|>", ("<|endoftext|>",),
        "<|im_start|>assistant\n<think>\n", "{T}\n</think>\n\nAnswer: {A}<|im_end|>",
    ),
    "qwen3.8": Family(
        QWEN38, "think", {"reasoning_effort": "low", "preserve_thinking": False}, CHATML_TOKENS, THINK, "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"), "<|im_start|>assistant\n<think>\n", "{T}\n</think>\n\nAnswer: {A}<|im_end|>",
    ),
    "r1 distill": Family(
        R1_DISTILL, "think", {}, ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("<｜User｜>", "<｜Assistant｜>", *THINK), "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",),
        "<｜Assistant｜><think>\n", "{T}\n</think>\n\nAnswer: {A}<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>",
    ),
    "gpt-oss": Family(
        GPT_OSS, "harmony", {"reasoning_effort": "high"},
        ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"), (),
        "<|return|>", ("<|return|>", "<|endoftext|>", "<|call|>"), "<|start|>assistant",
        "<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>final<|message|>Answer: {A}<|return|>",
    ),
    "gemma 3": Family(
        GEMMA3, "think", {}, ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n", "<table>"), "<eos>",
        ("<eos>", "<end_of_turn>"), "<start_of_turn>model\n", "<think>\n{T}\n</think>\n\nAnswer: {A}<end_of_turn>",
        bos="<bos>", sentencepiece=True,
    ),
    "gemma 4": Family(
        GEMMA4, "gemma4", {"enable_thinking": True},
        ("<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"), ("\n\n",), "<eos>",
        ("<eos>", "<turn|>"), "<|turn>model\n", "<|channel>thought\n{T}\n<channel|>Answer: {A}<turn|>", bos="<bos>",
        sentencepiece=True,
    ),
    "llama 3": Family(
        LLAMA3, "plain", {},
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>",
         "<|end_header_id|>"),
        (), "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "{T}\n\nAnswer: {A}<|eot_id|>", bos="<|begin_of_text|>",
    ),
    "glm": Family(
        GLM, "think", {},
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"), THINK,
        "<|endoftext|>", ("<|endoftext|>", "<|user|>", "<|observation|>"), "<|assistant|>",
        "<think>\n{T}\n</think>\n\nAnswer: {A}<|user|>",
    ),
    "smollm3": Family(
        SMOLLM3, "think", {}, CHATML_TOKENS, THINK, "<|im_end|>", ("<|im_end|>",), "<|im_start|>assistant\n",
        "<think>\n{T}\n</think>\n\nAnswer: {A}<|im_end|>",
    ),
}  # fmt: skip


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer: byte-level BPE, or one as SentencePiece makes them."""
    family = FAMILIES[name]
    backend = _sentencepiece(prefix="never") if family.sentencepiece else _byte_level()
    return _with_tokens(backend, family.special, family.added, eos=family.eos, bos=family.bos, template=family.template)


@cache
def llama2_tokenizer() -> PreTrainedTokenizerFast:
    """As those of Llama 2: SentencePiece, with a space at the start of a text."""
    template = (
        "{%- for m in messages %}{{- bos_token + '[INST] ' + m.content + ' [/INST]' if m.role == 'user' }}"
        "{{- ' ' + m.content + ' ' + eos_token if m.role == 'assistant' }}{%- endfor %}"
    )
    return _with_tokens(_sentencepiece("first"), ("<s>", "</s>"), (), eos="</s>", bos="<s>", template=template)


def _byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def _sentencepiece(prefix: str) -> Tokenizer:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prefix == "never":
        backend.normalizer = normalizers.Replace(" ", "▁")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    alphabet = sorted({"▁", *(chr(code) for code in range(33, 127))})
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<unk>", *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(TEXTS, trainer)
    trained = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    # The trainer has made added tokens of the bytes, which they are not.
    whole = Tokenizer(models.BPE(trained["vocab"], merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    for part in ("normalizer", "pre_tokenizer"):
        if (found := getattr(backend, part)) is not None:
            setattr(whole, part, found)
    backend = whole
    replace = decoders.Replace("▁", " ")
    backend.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _with_tokens(
    backend: Tokenizer, special: tuple[str, ...], added: tuple[str, ...], *, eos: str, bos: str | None, template: str
) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        bos_token=bos,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
