import pytest

from tenner.core.errors import TennerError
from tenner.core.policy_text import as_json, find, name, words
from tenner.core.records import EarlyExit, Grace, Policy

PLAIN, WAITS, NONE = Policy(thinking_tokens_max=64), Policy(thinking_tokens_max=64, waits=2), Policy()
EXIT = Policy(thinking_tokens_max=64, waits=2, early_exit=EarlyExit(at="wait", agree=1, probability=0.9))
OTHER_EXIT = Policy(thinking_tokens_max=64, waits=2, early_exit=EarlyExit(every_tokens=8))
GRACE = Policy(thinking_tokens_max=64, grace=Grace(tokens=16))
ALL = [PLAIN, WAITS, NONE, EXIT, GRACE]


@pytest.mark.parametrize("policy", ALL, ids=name)
def test_a_policy_is_found_by_its_name_and_by_all_its_fields(policy: Policy) -> None:
    assert find(name(policy), ALL) == policy
    assert find(as_json(policy), [*ALL, OTHER_EXIT]) == policy
    assert find(policy.model_dump_json(), ALL) == policy


def test_names_are_as_one_would_write_them() -> None:
    assert [name(policy) for policy in ALL] == ["64", "64+2", "none", "64+2,early-exit", "64,grace"]
    assert find("064+02", ALL) == WAITS
    assert find("64+1", ALL) is None
    assert find('{"thinking_tokens_max": 8}', ALL) is None


def test_a_name_of_several_is_refused_with_what_tells_them_apart() -> None:
    with pytest.raises(TennerError, match=r"--policy 64\+2,early-exit is more than one here") as e:
        find("64+2,early-exit", [EXIT, OTHER_EXIT])
    assert e.value.hint
    assert all(as_json(policy) in e.value.hint for policy in (EXIT, OTHER_EXIT))


@pytest.mark.parametrize(
    "text", ["much", "64,late", '{"thinking": 64}', "{", '{"thinking_tokens_max": -1}', "9" * 5000]
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(TennerError, match="--policy") as e:
        find(text, ALL)
    assert e.value.hint


def test_it_is_told_in_words() -> None:
    assert words(PLAIN) == "at most 64 thinking tokens"
    assert words(EXIT) == (
        "at most 64 thinking tokens, 2 waits, ended early before a wait where the trial answer has a probability of 0.9"
    )
    assert words(OTHER_EXIT).endswith("ended early every 8 tokens where 2 trial answers agree")
    assert words(GRACE).endswith("in the last 16 ended where an end is among 5 likeliest tokens")
    assert words(NONE.model_copy(update={"thinking_tokens_min": 9})) == "no limit on thinking tokens, at least 9"
