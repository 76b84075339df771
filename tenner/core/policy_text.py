"""A thinking policy as text: its name on a command line (`64+1`, `64,early-exit`), and what it does in words."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Grace, Policy

R = TypeVar("R", EarlyExit, Grace)
POLICY = re.compile(r"(?P<limit>[0-9]{1,18}|none)(?:\+(?P<waits>[0-9]{1,18}))?(?P<exit>,early-exit)?(?P<grace>,grace)?")


def name(policy: Policy) -> str:
    """The short name, which leaves out the settings of early exit and grace."""
    tokens = "none" if policy.thinking_tokens_max is None else str(policy.thinking_tokens_max)
    ways = {",early-exit": policy.early_exit, ",grace": policy.grace}
    return tokens + (f"+{policy.waits}" if policy.waits else "") + "".join(w for w, is_on in ways.items() if is_on)


def find(text: str, policies: Sequence[Policy]) -> Policy | None:
    """The policy that `text` names, by its short name or as the JSON of all its fields; None where it is not there.

    Raises TennerError for a text that names no policy, or several.
    """
    if text.startswith("{"):
        wanted = _parse_json(text)
        return next((policy for policy in policies if policy == wanted), None)
    match = POLICY.fullmatch(text)
    if match is None:
        raise TennerError(
            f"--policy {text} is no policy",
            hint="write 64 for a limit, 64+1 for a wait at it, none for no limit, 64,early-exit or 64,grace",
        )
    normal = match["limit"] if match["limit"] == "none" else str(int(match["limit"]))
    normal += f"+{int(match['waits'])}" if int(match["waits"] or 0) else ""
    normal += (match["exit"] or "") + (match["grace"] or "")
    found = [policy for policy in policies if name(policy) == normal]
    if len(found) > 1:
        raise TennerError(
            f"--policy {text} is more than one here",
            hint="give all its fields: " + " or ".join(f"'{as_json(policy)}'" for policy in found),
        )
    return found[0] if found else None


def as_json(policy: Policy) -> str:
    """All fields that are not as in a policy without any, as JSON that `find` understands."""
    return json.dumps(policy.model_dump(exclude_defaults=True))


def words(policy: Policy) -> str:
    """What a policy does, such as "at most 64 thinking tokens, ended early every 8 tokens where 2 trials agree"."""
    most = policy.thinking_tokens_max
    parts = ["no limit on thinking tokens" if most is None else f"at most {most:,} thinking tokens"]
    if policy.thinking_tokens_min:
        parts.append(f"at least {policy.thinking_tokens_min:,}")
    if policy.waits:
        parts.append(waits(policy))
    if policy.early_exit is not None:
        parts.append(f"ended early {_early_exit(policy.early_exit)}")
    if policy.grace is not None:
        grace = policy.grace
        parts.append(f"in the last {grace.tokens:,} ended where an end is among {grace.candidates} likeliest tokens")
    return ", ".join(parts)


def waits(policy: Policy) -> str:
    """How often a policy makes a student think on."""
    return "1 wait" if policy.waits == 1 else f"{policy.waits} waits"


def _early_exit(rule: EarlyExit) -> str:
    at = {"sentence": "after a sentence", "wait": "before a wait"}.get(rule.at, f"every {rule.every_tokens} tokens")
    when = [f"{rule.agree} trial answers agree"] if rule.agree > 1 else []
    when += [] if rule.probability is None else [f"the trial answer has a probability of {rule.probability:g}"]
    return f"{at} where {' and '.join(when)}"


def rule(option: str, kind: type[R], given: Mapping[str, Any]) -> R:
    """The rule whose fields an option gives. Raises TennerError for what is none."""
    try:
        return kind(**given)
    except ValidationError as e:
        raise TennerError(f"{option}{_first(e)}", hint=f"its fields are {', '.join(kind.model_fields)}") from None


def _parse_json(text: str) -> Policy:
    try:
        return Policy.model_validate_json(text)
    except ValidationError as e:
        raise TennerError(f"--policy{_first(e)}", hint="write a policy as completions.jsonl has it") from None


def _first(error: ValidationError) -> str:
    """Where the first problem is, and what."""
    first = error.errors(include_url=False)[0]
    where = "".join(f".{part}" for part in first["loc"])
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
