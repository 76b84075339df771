"""A sample becomes token ids and a loss mask: the student is taught what it says, never what it was asked."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from tenner.core.chat_template import ChatTemplate, encode_prompt, special_ids
from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import Sample

IDS_SHOWN = 10


class Encoded(NamedTuple):
    """One sample as token ids; `loss_mask` says of each token whether predicting it counts in the loss."""

    sample_id: str
    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]


def encode(template: ChatTemplate, sample: Sample, fmt: ThinkFormat, *, end_id: int) -> Encoded:
    """Prompt, then open, thinking, close and answer, each encoded on its own, then the end of the turn.

    Encoding the segments apart is what makes the ids that forcing puts in at inference the ids that were trained on.
    An opening that the chat template writes itself is part of the prompt: the student never samples it.
    Raises TennerError when the thinking would not come back from its ids, or contains the format's own delimiters, and
    when the answer contains a special token.
    """
    tokenizer, prompt = template.tokenizer, template.question(sample.question)
    texts = fmt.after(prompt.text).trained_segments(sample.thinking, sample.answer)
    prompt_ids = encode_prompt(tokenizer, prompt)
    open_ids, thinking_ids, close_ids, answer_ids = (tokenizer.encode(t, add_special_tokens=False) for t in texts)
    # Special tokens are skipped here: a text that contains one (an end of turn, say) is lost, and refused.
    delimited = any(mark.strip() and mark.strip() in sample.thinking for mark in (fmt.open, fmt.close))
    survives = tokenizer.decode(thinking_ids, skip_special_tokens=True) == texts[1]
    if not survives or delimited:
        raise TennerError(
            f"the thinking of sample {sample.id} does not survive the tokenizer in format {fmt.name}",
            hint="it holds characters, special tokens or delimiters that the ids cannot give back: drop this sample",
        )
    if special := special_ids(tokenizer).intersection(answer_ids):
        raise TennerError(
            f"the answer of sample {sample.id} holds the control token {tokenizer.decode([min(special)])}",
            hint="the student would learn to say it in the middle of an answer: drop this sample",
        )
    said_ids = (*open_ids, *thinking_ids, *close_ids, *answer_ids, end_id)
    return Encoded(sample.id, (*prompt_ids, *said_ids), (False,) * len(prompt_ids) + (True,) * len(said_ids))


def refuse_longer(encoded: Sequence[Encoded], *, tokens_max: int) -> None:
    """Raise TennerError, with their ids, where samples are longer than `tokens_max`: nothing is truncated."""
    if over := [e for e in encoded if len(e.ids) > tokens_max]:
        shown = ", ".join(e.sample_id for e in over[:IDS_SHOWN]) + (", ..." if len(over) > IDS_SHOWN else "")
        raise TennerError(
            f"{len(over)} of {len(encoded)} samples are longer than tokens_max = {tokens_max}: {shown}",
            hint=f"the longest has {max(len(e.ids) for e in over)} tokens: raise train.tokens_max, "
            'or leave them out with train.longer = "drop"',
        )


def runs(tokenizer: Tokenizer, encoded: Encoded) -> list[tuple[str, bool]]:
    """The sample as (text, trained) pieces in order, one for each contiguous run of the mask."""
    pairs = zip(encoded.ids, encoded.loss_mask, strict=True)
    return [
        (tokenizer.decode([token_id for token_id, _ in run], skip_special_tokens=False), trained)
        for trained, run in groupby(pairs, key=lambda pair: pair[1])
    ]
