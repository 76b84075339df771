"""Calls that are split between several servers of one model: real ones on loopback, of which one fails."""

from contextlib import closing

import pytest
from chat_server import ChatServer
from paid import buy, cost_microusd, questions, section
from pydantic import ValidationError

from tenner.budget.ledger import Ledger
from tenner.clients import registry
from tenner.clients.billing import PaidReply
from tenner.clients.openai import OpenAIClient
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import FailedCall

TEXTS = [f"{i}+{i}?" for i in range(40)]


def over(*servers, **changes):
    first, *further = servers
    return section(first, further_base_urls=[server.url for server in further], **changes)


def bought(tmp_path, described):
    with closing(Ledger(tmp_path / "run.db", budget_usd=1.0)) as ledger:
        return *buy(OpenAIClient(described), ledger, questions(*TEXTS)), round(ledger.spent_usd() * 1e6)


def test_two_servers_share_the_calls_and_none_is_made_twice(tmp_path):
    with ChatServer() as one, ChatServer() as two:
        results, _, spent = bought(tmp_path, over(one, two))
        asked = [[asked.question for asked in server.asked] for server in (one, two)]
        assert min(map(len, asked)) >= 10
        assert sorted(asked[0] + asked[1]) == sorted(TEXTS)
        assert all(isinstance(result, PaidReply) for result in results.values())
        assert spent == sum(map(cost_microusd, TEXTS))
        _, _, spent_again = bought(tmp_path, over(one, two))
        assert spent_again == spent
        assert len(one.asked) + len(two.asked) == len(TEXTS)


def test_a_server_that_fails_is_avoided(tmp_path):
    with ChatServer() as good, ChatServer(scripts={text: ["server error"] for text in TEXTS}) as bad:
        results, calls, _ = bought(tmp_path, over(good, bad))
    assert all(isinstance(result, PaidReply) for result in results.values())
    assert len(bad.asked) <= 8  # those in flight when it first failed
    assert calls.progress.retries == {"server_error": len(bad.asked)}


def test_what_failed_names_its_server(tmp_path):
    bad = {text: ["good" if number % 4 else "bad request"] for number, text in enumerate(TEXTS)}
    with ChatServer(scripts=bad) as one, ChatServer(scripts=bad) as two:
        results, _, _ = bought(tmp_path, over(one, two))
    told = {result.evidence.split(": ")[0] for result in results.values() if isinstance(result, FailedCall)}
    assert told == {one.url, two.url}


def test_each_server_is_checked_before_anything_is_spent():
    with ChatServer() as one:
        described = section(one, further_base_urls=["http://127.0.0.1:1/v1"])
        with pytest.raises(TennerError, match=r"no server answers at http://127\.0\.0\.1:1/v1"):
            registry.check(described, Screen())


def test_batches_and_other_clients_take_one_server():
    with ChatServer() as one, pytest.raises(ValidationError, match="not with batches"):
        section(one, further_base_urls=["http://127.0.0.1:1/v1"], batch=True)
