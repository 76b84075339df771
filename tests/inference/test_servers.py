"""Jobs over several real servers on loopback: how they are split, and what happens when one fails."""

from itertools import count

import pytest
from completions_server import CompletionsServer
from transformers import AutoTokenizer

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat
from tenner.core.records import Policy
from tenner.core.seeds import digest
from tenner.inference.api import ApiEngine
from tenner.inference.job import Prompt

FORMAT = ThinkFormat("two", open="<|im_start|>t", close="xy", cue="=")
PROMPTS = [Prompt(str(i), f"<|im_start|>user\n{i} + {i}?<|im_end|>\n") for i in range(12)]
POLICIES = [Policy(thinking_tokens_max=budget) for budget in (0, 9, 20)]


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def student(tokenizer):
    """The next token is drawn by a hash of all ids before it."""
    alphabet = [*tokenizer.encode("axxyyb", add_special_tokens=False), tokenizer.eos_token_id]
    return lambda ids: alphabet[int(digest(*ids)[:8], 16) % len(alphabet)]


class Broken(CompletionsServer):
    """Answers so many requests, and then with what no client can use."""

    def __init__(self, tokenizer, student, good):
        super().__init__(tokenizer, student)
        self._left, self._number = good, count()

    def answer(self, body):
        return super().answer(body) if next(self._number) < self._left else {"choices": []}


def answers(tokenizer, servers, say=lambda _: None):
    """What the prompts are completed with, in their order."""
    engine = ApiEngine(
        [server.url for server in servers], "m", tokenizer, context_tokens=200, speaks="ids", wait_text="w", requests=4,
        say=say,
    )  # fmt: skip
    return list(engine.sweep(PROMPTS, POLICIES, FORMAT, answer_tokens_max=5))


def test_two_servers_share_the_questions_and_give_the_answers_of_one(tokenizer, student):
    with CompletionsServer(tokenizer, student) as one:
        wanted = answers(tokenizer, [one])
    with CompletionsServer(tokenizer, student) as one, CompletionsServer(tokenizer, student) as two:
        assert answers(tokenizer, [one, two]) == wanted
    ids = {prompt.id: tokenizer.encode(prompt.text, add_special_tokens=False) for prompt in PROMPTS}
    asked = [
        {key for key, start in ids.items() for request in server.requests if request["prompt"][: len(start)] == start}
        for server in (one, two)
    ]
    assert min(map(len, asked)) >= 3
    assert not asked[0] & asked[1]  # a question stays with its server, which may have its thinking in a cache
    assert sum(map(len, asked)) == len(PROMPTS)


def test_a_server_that_fails_in_the_middle_is_set_aside_and_nothing_is_lost(tokenizer, student):
    said: list[str] = []
    with CompletionsServer(tokenizer, student) as one, Broken(tokenizer, student, good=5) as two:
        wanted = answers(tokenizer, [one])
        assert answers(tokenizer, [one, two], said.append) == wanted
    (line,) = said
    assert line.startswith(f"{two.url} is set aside, its questions go to the other servers: ")
    assert "returned no choice" in line
    assert len(two.requests) <= 5 + 4  # those that were under way when it failed


def test_when_all_fail_each_one_is_told_of(tokenizer, student):
    with Broken(tokenizer, student, good=3) as one, Broken(tokenizer, student, good=0) as two:
        with pytest.raises(TennerError, match="all 2 servers have failed") as raised:
            answers(tokenizer, [one, two])
        assert one.url in str(raised.value)
        assert two.url in str(raised.value)
