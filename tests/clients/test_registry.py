"""Which client a section gets, and that every refusal names the section it is about."""

import asyncio
import datetime
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tenner.clients import registry
from tenner.clients.faults import Fault
from tenner.clients.openai import OpenAIClient
from tenner.clients.protocol import Call, keyed_request
from tenner.clients.replay import ReplayClient
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import Question, Usage
from tenner.core.sections import ApiModel, Labeller, PriceSection, Referee, TraceSection

PRICE = PriceSection(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
LOCAL: dict[str, Any] = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "price": PRICE}


def sections(**fields):
    """The same settings in every section that names a paid model, by its place in the recipe."""
    return {
        "trace": TraceSection(**fields),
        "domains.labeller": Labeller(**fields),
        "evaluate.models": ApiModel(name="o1", **fields),
        "evaluate.referee": Referee(**fields),
    }


@pytest.mark.parametrize("place", ["trace", "domains.labeller", "evaluate.models", "evaluate.referee"])
@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"client": "openai", "model": "m", "preset": "depseek"}, ".preset: no provider is called depseek"),
        ({"client": "openai", **LOCAL, "parameters": {"n": 2}}, ".parameters: n is set by tenner itself"),
        ({"client": "gemini", **LOCAL, "parameters": {"temprature": 1}}, ".parameters: gemini has no parameter"),
        ({"client": "gemini", **LOCAL, "parameters": {"temperature": "hot"}}, ".parameters: temperature: "),
        ({"client": "gemini", **LOCAL, "parameters": {"max_output_tokens": 5}}, ".parameters: max_output_tokens "),
    ],
)
def test_a_refusal_names_the_section_it_is_about(place, fields, start, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    with pytest.raises(TennerError) as caught:
        registry.client_for(sections(**fields)[place])
    assert str(caught.value).startswith(place + start)


@pytest.mark.parametrize("place", ["trace", "domains.labeller", "evaluate.models", "evaluate.referee"])
def test_a_missing_batch_price_is_asked_for_in_its_own_section(place):
    section = sections(client="openai", **LOCAL, batch=True)[place]
    with pytest.raises(TennerError, match=r"costs in a batch is not known") as caught:
        registry.check(section, Screen())
    assert f"[{place}.price]" in (caught.value.hint or "")
    assert ("--batch-multiplier" in (caught.value.hint or "")) == (place == "trace")


def test_a_folder_that_cannot_be_replayed_is_named_with_its_setting(tmp_path):
    with pytest.raises(TennerError) as caught:
        registry.client_for(TraceSection(client="replay", replay_from=str(tmp_path)))
    assert str(caught.value) == f"trace.replay_from: {tmp_path} holds no traces"


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("key TEXT", None),
        ("key TEXT, body TEXT, content_type TEXT", ("{}", "application/json")),
        ("key TEXT, body BLOB, content_type TEXT", (None, "application/json")),
        ("key TEXT, body BLOB, content_type TEXT", (b"{}", None)),
    ],
    ids=["other columns", "text for bytes", "no body", "no content type"],
)
def test_a_store_that_holds_something_else_is_told_in_one_line(columns, row, tmp_path):
    original = OpenAIClient(TraceSection(client="openai", **LOCAL), key="")
    call = Call(Question(id="q", question="1 + 1?", source="s"), 0)
    request = original.request(call)
    with closing(sqlite3.connect(tmp_path / "run.db")) as db:
        db.execute(f"CREATE TABLE responses ({columns})")
        if row is not None:
            key = keyed_request(original.price, request, 0).key
            db.execute("INSERT INTO responses VALUES (?, ?, ?)", (key, *row))
        db.commit()
    if row is None:
        with pytest.raises(TennerError, match=r"run\.db cannot be used: no such column"):
            ReplayClient(original, tmp_path / "run.db")
        return
    client = ReplayClient(original, tmp_path / "run.db")
    with pytest.raises(Fault, match="not_stored: what the other run holds as its response is damaged"):
        asyncio.run(client.send(call, request))
    asyncio.run(client.close())


def test_a_replay_costs_nothing_on_any_day(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "tenner").mkdir()
    row = '[[price]]\nprovider = "h"\nmodel = "m"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\nsource = "s"\n'
    prices = tmp_path / "tenner" / "prices.toml"
    prices.write_text(f"{row}checked = 2026-11-01\n{row}checked = 2026-11-01\nsince = 3000-01-01\n")
    with closing(sqlite3.connect(tmp_path / "run.db")) as db:
        db.execute("CREATE TABLE responses (key TEXT, body BLOB, content_type TEXT)")
    original = OpenAIClient(TraceSection(client="openai", base_url="http://h/v1", model="m"), key="")
    client = ReplayClient(original, tmp_path / "run.db")
    usage = Usage(input_tokens=1000, output_tokens=1000)
    days = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2999, 3000)]
    assert client.price.microusd(usage, *days) == 0
    asyncio.run(client.close())
