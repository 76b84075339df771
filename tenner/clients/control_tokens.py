"""Control tokens and think tags that servers leave in the text of a reply: strip those at its edges, find the rest."""

import re

END_TOKENS = re.compile(
    r"""
    <\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|eot|end|return|call|end_of_sentence|eod|end_of_turn|endofturn)\|>
    | <\|(?:END_OF_TURN_TOKEN|END_RESPONSE|END_TEXT|endofresponse|observation|user|im_sep|separator|eop|EOT)\|>
    | <\|role_end\|> | \[END\ FINAL\ RESPONSE\]
    | <\uff5c[^\uff5c<>\n]{0,12}end[^\uff5c<>\n]{0,16}\uff5c>  # DeepSeek's end of sentence
    | <\|end\u2581of\u2581sentence\|> | <\uff5chy_(?:eos|EOT)\uff5c> | <\uff5cUser\uff5c>
    | <end_of_turn> | <turn\|> | <eos> | </s> | <seed:eos> | \[EOS\] | \[e~\[ | <\[?EOS\]?> | <end_of_utterance>
    | <\|(?:end_of_solution|endofsolution|flush)\|> | \[\|endofturn\|\] | <SPECIAL_\d{1,3}> | <pad>
    """,
    re.VERBOSE,
)
"""Tokens that end a turn or a text, of all known families."""
THINK_NAMES = r"(?:ant|\w{1,16}[:_])?think(?:ing)?(?::[a-z]{1,16})?|thoughts?|reasoning|seed:cot_budget_reflect"
"""With a prefix as MiniMax's `mm:think`, Seed's and LongCat's, or a suffix as Hunyuan's `think:opensource`."""
THINK_TAG = re.compile(
    rf"</?(?:{THINK_NAMES})(?:\s[a-z]+=[^<>\n]{{0,80}})?> | \[/?THINK\] | ◁/?think▷ | <\|(?:begin|end)_of_thought\|>"
    r"| <\|(?:START|END)_THINKING\|> | <\|?channel\|?> | <\|(?:message|start)\|>",
    re.VERBOSE | re.IGNORECASE,
)
CLOSING_TAG = rf"(?:</(?:{THINK_NAMES})\s?>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>)"
OPENING_TAG = (
    rf"(?:<(?:{THINK_NAMES})(?:\s[^<>\n]{{0,80}})?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>)"
)
LEADING_CLOSE = re.compile(rf"\A\s*{CLOSING_TAG}\s*", re.IGNORECASE)
LEADING_OPEN = re.compile(rf"\A\s*(?:(?:{OPENING_TAG}|think>)\s*)+", re.IGNORECASE)
"""Also one that lost its first character with the token before it, and several."""
LEADING_BLOCK = re.compile(rf"\A\s*{OPENING_TAG}(.*?){CLOSING_TAG}\s*", re.IGNORECASE | re.DOTALL)
CONTROL_TOKEN = re.compile(
    rf"""
    {END_TOKENS.pattern}
    | <\|[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+\|>      # <|im_start|>, <|start_header_id|>, …
    | <\|(?:system|assistant|tool|begin|bos|eos|pad|python_tag|thinking|think|channel|message|start|constrain)\|>
    | <\|(?:turn|channel|think)> | <channel\|>
    | </?\uff5c[^\uff5c<>\n]{{1,40}}\uff5c[^<>\n]{{0,60}}>         # DeepSeek and its markup of calls, Hunyuan
    | <\|[A-Z]{{3,}}\|>
    | <(?:start_of_turn|bos|seed:bos|start_of_image)> | </?(?:\w{{1,16}}:)?tool_calls?> | <invoke\ name=
    | <unk> | <function=\w+> | \[TOOL_CALLS\] | (?<=[^\sA-Za-z-])assistant\n  # a header in words
    | \[/?INST\] | \[/?SYSTEM_PROMPT\] | \]~b\] | \]~!b\[ | <<SYS>> | <\[?BOS\]?> | <\|turn>
    """,
    re.VERBOSE,
)
_END_AT_END = re.compile(rf"(?:{END_TOKENS.pattern})\Z", re.VERBOSE)
_CLOSE_AT_END = re.compile(rf"{CLOSING_TAG}\Z", re.IGNORECASE)
TOKEN_CHARS_MAX = 64
"""No end token is longer."""


def without_end_tokens(text: str) -> str:
    """The text without end tokens behind it; the very same text where there are none."""
    return _without(text, _END_AT_END)


def clean_thinking(thinking: str) -> str:
    """The thinking without the tags around it and the end tokens behind it."""
    return LEADING_OPEN.sub("", _without(without_end_tokens(thinking), _CLOSE_AT_END))


def clean_answer(answer: str, thinking: str) -> str:
    """The answer to a reply whose thinking was found: without a closing tag or the same thinking again before it, an
    empty think block, and end tokens behind it.
    """
    answer = without_end_tokens(answer)
    if thinking:
        answer = LEADING_CLOSE.sub("", answer)
    if (block := LEADING_BLOCK.match(answer)) and block[1].split() in ([], thinking.split()):
        answer = answer[block.end() :]
    return answer


def damage_of(text: str) -> str | None:
    """The first control token or think tag in a text, None where it has none."""
    if not any(mark in text for mark in ("<", "[", "◁", "]", "assistant\n")):
        return None
    places = [found for pattern in (CONTROL_TOKEN, THINK_TAG) if (found := pattern.search(text))]
    return min(places, key=lambda found: found.start())[0] if places else None


def _without(text: str, at_end: re.Pattern[str]) -> str:
    """The text without what matches at its end, which is looked for in the last characters only."""
    while found := at_end.search(stripped := text.rstrip(), max(0, len(stripped) - TOKEN_CHARS_MAX)):
        text = stripped[: found.start()]
    return text
