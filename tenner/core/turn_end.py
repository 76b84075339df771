"""All ids that end a turn of a model: those of its tokenizer, its configuration and its generation settings."""

from pathlib import Path

from tenner.core import model_folder
from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import TennerError
from tenner.core.formats import Tokenizer

FILES = ("config.json", "generation_config.json")


def end_ids(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of `eos_token_id` in the tokenizer, config.json and generation_config.json, and the template's own end.

    Only control tokens of the tokenizer count: a configuration that was never filled in names any id.
    """
    named = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    for file in FILES:
        named |= _named_in(folder / file) & tokenizer.added_tokens_decoder.keys()
    ends = frozenset(int(i) for i in named)
    try:
        return ends | {ChatTemplate(tokenizer).turn_end_id(ends)}
    except TennerError:  # no chat template: such a model is refused where it is asked, if it is to chat
        return ends


def _named_in(path: Path) -> set[int]:
    """The end ids in a configuration file, of its text model too."""
    if not path.exists():
        return set()
    content = model_folder.read_json(path)
    found: set[int] = set()
    for section in (content, content.get("text_config") or {}):
        named = section.get("eos_token_id") if isinstance(section, dict) else None
        found |= {i for i in (named if isinstance(named, list) else [named]) if isinstance(i, int)}
    return found
