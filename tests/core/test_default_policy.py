from pathlib import Path

import pytest

from tenner.core import default_policy
from tenner.core.default_policy import DefaultPolicy
from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Policy

FULL = Policy(thinking_tokens_max=64)
EXIT = Policy(thinking_tokens_max=64, early_exit=EarlyExit(every_tokens=8))
CHOSEN = DefaultPolicy(
    policy=EXIT, full=FULL, margin=0.02, n=600, tried=14, accuracy=0.9, full_accuracy=0.905, difference=-0.005,
    ci_low=-0.012, ci_high=0.002, thinking_tokens_mean=21.0, full_thinking_tokens_mean=30.0,
)  # fmt: skip


def test_it_is_read_as_it_was_written_and_names_its_test(tmp_path: Path) -> None:
    assert default_policy.read(tmp_path) is None
    default_policy.write(tmp_path, CHOSEN)
    assert default_policy.read(tmp_path) == CHOSEN
    assert "30% fewer thinking tokens (30.0 to 21.0, trial answers counted)" in CHOSEN.sentence
    assert "-0.5 points (-1.2 to +0.2) on 600 held-out questions" in CHOSEN.sentence
    none = CHOSEN.model_copy(update={"policy": FULL})
    assert none.sentence.startswith("at most 64 thinking tokens: none of 13 others was shown")


@pytest.mark.parametrize("text", ["", "{}", CHOSEN.model_dump_json().replace('"waits":0', '"waits":1', 1)])
def test_a_file_that_cannot_be_served_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / default_policy.FILE).write_text(text)
    with pytest.raises(TennerError, match=r"thinking_policy\.json is damaged") as e:
        default_policy.read(tmp_path)
    assert e.value.hint
