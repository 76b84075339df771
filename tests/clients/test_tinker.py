"""A training service that answers with something else than the Tinker protocol: one line, and nothing is lost."""

import io
import json
import os
import shutil
import tarfile
import tracemalloc
from typing import NamedTuple

import pytest
from loopback_server import LoopbackServer
from tinker_server import adapter_archive

from tenner.clients import tinker
from tenner.clients.tinker import Datum, TinkerClient
from tenner.core.errors import TennerError
from tenner.core.sections import TrainingService
from tenner.stages import paid_steps

PAGE = b"<!DOCTYPE html><html>Please log in</html>"
GOOD = {"client/config": b"{}", "create_session": b'{"session_id": "s"}', "session_heartbeat": b"{}"}


class Answering(LoopbackServer):
    """Answers by the end of the path, with HTTP 200."""

    def __init__(self, answers):
        super().__init__()
        self.answers = GOOD | answers

    def answer_request(self, handler, body):  # noqa: ARG002
        path = handler.path.removeprefix("/api/v1/")
        said = self.answers.get(path, self.answers.get(path.rpartition("/")[2], b"{}"))
        handler.send_response(200)
        handler.send_header("content-length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ({"client/config": PAGE}, "client/config"), ({"client/config": b"[]"}, "client/config"),
        ({"create_session": b"{}"}, "create_session"), ({"create_session": b"7"}, "create_session"),
        ({"get_server_capabilities": PAGE}, "get_server_capabilities"),
        ({"get_server_capabilities": b'{"supported_models": [3]}'}, "get_server_capabilities"),
    ],
)  # fmt: skip
def test_a_service_that_does_not_speak_the_protocol_is_told_with_its_setting(answers, what):
    with Answering(answers) as server, pytest.raises(TennerError, match=f"answer to {what} is not one of") as caught:
        tinker.check(TrainingService(base_url=server.url, model="m", price_usd_per_mtok=1.0))
    assert "train.tinker.base_url" in (caught.value.hint or "")


REQUESTS = {
    "create_model": lambda client: client.create_model("m", rank=2, seed=0),
    "optim_step": lambda client: client.optim_step("m", tinker.Adam(0.1, 0.9, 0.9, 1e-8, 0.0, 1.0)),
    "retrieve_future": lambda client: client.result("1"),
    "checkpoints": lambda client: client.checkpoints("m"),
    "asample": lambda client: client.sample("tinker://a/b/c", [1], max_tokens=1, stop_ids=[2], seed=0),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("said", [PAGE, b"null", b'{"request_id": null, "checkpoints": {}}', b"[" * 100_000])
def test_an_answer_of_another_kind_is_one_line(name, said):
    with Answering({name: said}) as server, TinkerClient(server.url, key="k") as client:
        if name != "retrieve_future" or said[:1] != b"{":
            with pytest.raises(TennerError, match="is not one of the Tinker protocol"):
                REQUESTS[name](client)


@pytest.mark.parametrize("sequences", [None, [], [{}], [{"tokens": "1"}], [{"tokens": [1, "2"]}]])
def test_a_sample_without_ids_is_one_line(sequences):
    answers = {"asample": b'{"request_id": "1"}', "retrieve_future": json.dumps({"sequences": sequences}).encode()}
    with (
        Answering(answers) as server,
        TinkerClient(server.url, key="k") as client,
        pytest.raises(TennerError, match="answer to asample is not one of"),
    ):
        client.sample("tinker://a/b/c", [1], max_tokens=1, stop_ids=[2], seed=0)


class Usage(NamedTuple):
    free: int


def archive_of(name, content):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_an_archive_that_is_damaged_or_leaves_its_folder_is_one_line(tmp_path):
    whole = adapter_archive({"num_hidden_layers": 1, "hidden_size": 8}, 2, 1.0)
    for number, damaged in enumerate([PAGE, b"", whole[: len(whole) // 2], archive_of("../outside", b"x")]):
        with (
            Answering({"archive": damaged}) as server,
            TinkerClient(server.url, key="k") as client,
            pytest.raises(TennerError, match="the archive of tinker://a/b/c is damaged"),
        ):
            client.download("tinker://a/b/c", tmp_path / str(number))
    assert not (tmp_path / "outside").exists()


@pytest.mark.slow
def test_an_archive_is_not_held_in_memory(tmp_path):
    content = os.urandom(32 << 20)
    with (
        Answering({"archive": archive_of("weights", content)}) as server,
        TinkerClient(server.url, key="k") as client,
    ):
        tracemalloc.start()
        try:
            client.download("tinker://a/b/c", tmp_path / "adapter")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "adapter/weights").read_bytes() == content
    assert most < 8 << 20


class BreakingOff(Answering):
    """Breaks off the first archive in the middle."""

    broken = False

    def answer_request(self, handler, body):
        if self.broken or not handler.path.endswith("/archive"):
            super().answer_request(handler, body)
            return
        self.broken = True
        whole = self.answers["archive"]
        handler.send_response(200)
        handler.send_header("content-length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2])
        handler.close_connection = True


def test_an_archive_that_is_broken_off_is_downloaded_anew(tmp_path):
    content = os.urandom(100_000)
    with (
        BreakingOff({"archive": archive_of("weights", content)}) as server,
        TinkerClient(server.url, key="k", retry_seconds=0.01) as client,
    ):
        client.download("tinker://a/b/c", tmp_path / "adapter")
    assert server.broken
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "adapter").iterdir()] == [("weights", content)]


def test_an_archive_that_does_not_fit_on_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=99))
    with (
        Answering({"archive": archive_of("weights", bytes(100))}) as server,
        TinkerClient(server.url, key="k") as client,
        pytest.raises(TennerError, match=r"has 100 bytes, and 99 are free"),
    ):
        client.download("tinker://a/b/c", tmp_path / "adapter")
    assert list((tmp_path / "adapter").iterdir()) == []


DATA = [Datum([1, 2], [2, 3], [0.0, 0.5]), Datum([1], [2], [0.5])]


@pytest.mark.parametrize(
    "outputs",
    [[], [{}, {}], [{"logprobs": {"data": [-1.0, -1.0]}}], [{"logprobs": 3}] * 2, [{"logprobs": {"data": None}}] * 2,
     [{"logprobs": {"data": ["a", "b"]}}, {"logprobs": {"data": [1.0]}}]],
)  # fmt: skip
def test_a_step_that_was_paid_for_is_kept_whatever_is_told_of_its_loss(outputs):
    assert paid_steps._loss(DATA, outputs) is None


def test_the_loss_is_that_of_the_predictions_that_count():
    outputs = [{"logprobs": {"data": [-9.0, -1.0]}}, {"logprobs": {"data": [-3.0]}}]
    assert paid_steps._loss(DATA, outputs) == 2.0


def test_metrics_that_are_no_numbers_are_left_out():
    assert paid_steps._metrics({"metrics": {"grad_norm:sum": 1.5, "note": "fine", "x": None}}) == {"grad_norm:sum": 1.5}
    assert paid_steps._metrics({"metrics": ["a"]}) == paid_steps._metrics({}) == {}
