"""A client of the Tinker protocol, in which Thinking Machines' service and SkyRL's server train LoRA by the token.

It speaks the JSON over HTTP of the SDK `tinker` 0.18 itself. The SDK hides whether a request was accepted before a
connection broke off, and a step that may have been accepted must not be sent, and paid, again.
"""

import gzip
import lzma
import shutil
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx2

from tenner.clients.api_keys import key_in_environment
from tenner.clients.faults import Fault, from_status
from tenner.clients.http import CONNECT_SECONDS, UNSENT, check_proxies, fault_of
from tenner.clients.json_fields import mapping
from tenner.core.disk import disk_errors
from tenner.core.errors import TennerError
from tenner.core.sections import TrainingService
from tenner.core.suggest import did_you_mean

PROTOCOL_VERSION = "0.18.1"
"""The release of the SDK whose messages these are."""
READ_SECONDS = 330.0
"""SkyRL's server holds an answer back for up to 300 s until a result is there."""
HEARTBEAT_SECONDS = 10.0
MODELS_SHOWN = 8
RETRIES = 8
RETRY_SECONDS_MAX = 30.0


class Datum(NamedTuple):
    """One sample of T tokens: T - 1 inputs, what each is to predict, and the weight of each prediction in the loss."""

    input_ids: Sequence[int]
    target_ids: Sequence[int]
    weights: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        """As the protocol sends it."""
        return {
            "model_input": _model_input(self.input_ids),
            "loss_fn_inputs": {
                "target_tokens": _tensor(self.target_ids, "int64"), "weights": _tensor(self.weights, "float32")
            },
        }  # fmt: skip


class Adam(NamedTuple):
    """What the optimizer is given at one step."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip_norm: float


class Rejected(Exception):
    """The server said no to what was asked for, or the result is an error; nothing was changed by it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class TinkerClient:
    """One session of a service; a context manager that keeps the session alive.

    Requests are queued by the service and worked on in their order for one model; `result` waits for one of them.
    Every method raises TennerError where the service cannot be reached, refuses the key or answers with something else
    than the protocol has, and Rejected where it refuses the request itself.
    """

    def __init__(self, base_url: str, *, key: str, retry_seconds: float = 1.0) -> None:
        check_proxies()
        self._url, self._key, self._retry_seconds = base_url.rstrip("/"), key, retry_seconds
        self._http = httpx2.Client(timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS))
        self._token = key
        self._session = ""
        self._models = 0
        self._sent: dict[str, int] = {}
        self._ended = threading.Event()

    def __enter__(self) -> "TinkerClient":
        try:
            config = self._ask("client/config", {"sdk_version": PROTOCOL_VERSION})
            if config.get("pjwt_auth_enabled"):
                self._renew_token()
            body = {"tags": ["tenner"], "user_metadata": {}, "sdk_version": PROTOCOL_VERSION, "type": "create_session"}
            session = self._ask("create_session", body)
            if said := session.get("error_message"):
                raise TennerError(f"{self._url}: {said}")
            self._session = text_field(session, "session_id", "create_session")
        except BaseException as e:
            self._http.close()
            if isinstance(e, Rejected):
                raise self.error(e) from None
            raise
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._http.close()

    def error(self, rejected: Rejected) -> TennerError:
        """The error of a refused request, for the user."""
        return TennerError(
            f"the training service refused: {rejected}"[:400].replace(self._key or "\0", "[key]"),
            hint="check train.tinker.base_url and train.tinker.model, and what the service's own log says",
        )

    def models(self) -> list[str]:
        """The names of the models that the service trains."""
        what = "get_server_capabilities"
        return _texts(_fields(self._request("GET", what), what), "supported_models", "model_name", what)

    # -- models --------------------------------------------------------------------------------------------------

    def create_model(self, base_model: str, *, rank: int, seed: int) -> str:
        """The id of a new adapter of this rank, beside all linear layers but the head."""
        lora = {"rank": rank, "seed": seed, "train_unembed": False, "train_mlp": True, "train_attn": True}
        body = {
            "session_id": self._session, "model_seq_id": self._models, "base_model": base_model, "lora_config": lora,
            "type": "create_model",
        }  # fmt: skip
        self._models += 1
        return text_field(self.result(self._queue("create_model", body)), "model_id", "create_model")

    def unload(self, model_id: str) -> None:
        """Free what the service holds in memory of an adapter; one that it no longer holds is passed over."""
        with suppress(Rejected):
            self.result(self._queue("unload_model", {"model_id": model_id, "type": "unload_model"}))

    # -- training ------------------------------------------------------------------------------------------------

    def forward_backward(self, model_id: str, data: Sequence[Datum]) -> str:
        """Queue the gradients of the samples' cross-entropy, which add up until the next `optim_step`."""
        what = {"data": [datum.as_json() for datum in data], "loss_fn": "cross_entropy"}
        return self._queue("forward_backward", self._numbered(model_id, {"forward_backward_input": what}))

    def optim_step(self, model_id: str, adam: Adam) -> str:
        """Queue one step of AdamW along the gradients so far."""
        return self._queue(
            "optim_step", self._numbered(model_id, {"adam_params": adam._asdict(), "type": "optim_step"})
        )

    def save_state(self, model_id: str, name: str) -> str:
        """Queue storing adapter and optimizer under a name that the model has not used. Rejected 409: it has."""
        return self._queue("save_weights", self._numbered(model_id, {"path": name, "type": "save_weights"}))

    def load_state(self, model_id: str, path: str) -> None:
        """Go on from what `save_state` stored, of any model."""
        body = {"path": path, "optimizer": True, "type": "load_weights"}
        self.result(self._queue("load_weights", self._numbered(model_id, body)))

    def save_for_sampler(self, model_id: str, name: str) -> str:
        """Store the adapter for sampling and download; its path."""
        body = {"path": name, "type": "save_weights_for_sampler"}
        try:
            self.result(self._queue("save_weights_for_sampler", self._numbered(model_id, body)))
        except Rejected as e:
            if e.status != 409:
                raise
        return f"tinker://{model_id}/sampler_weights/{name}"

    def result(self, request_id: str) -> dict[str, Any]:
        """Wait for the result of a queued request."""
        while True:
            try:
                found = self._ask("retrieve_future", {"request_id": request_id}, waits=True)
            except Rejected as e:
                if e.status == 408:  # not yet
                    continue
                raise
            if found.get("type") == "try_again":
                continue
            if "error" in found:
                raise Rejected(400, str(found["error"]))
            return found

    # -- storage -------------------------------------------------------------------------------------------------

    def checkpoints(self, model_id: str) -> list[str]:
        """The paths of what is stored of a model."""
        what = f"training_runs/{model_id}/checkpoints"
        return _texts(_fields(self._request("GET", what), what), "checkpoints", "tinker_path", what)

    def delete(self, path: str) -> bool:
        """Delete what is stored under a path; False where the server cannot delete."""
        model_id, kind, name = _parts(path)
        try:
            self._request("DELETE", f"training_runs/{model_id}/checkpoints/{kind}/{name}")
        except Rejected as e:
            if e.status in (404, 405, 501):
                return False
            raise
        return True

    def download(self, path: str, folder: Path) -> None:
        """Unpack an adapter that `save_for_sampler` stored, once it is known to fit on the disk."""
        with disk_errors(folder), _archive_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as packed:
                self._fetch_archive(path, packed)
                packed.seek(0)
                with tarfile.open(fileobj=packed) as archive:
                    size, free = sum(member.size for member in archive), shutil.disk_usage(folder).free
                    if size > free:
                        raise TennerError(
                            f"the archive of {path} has {size:,} bytes, and {free:,} are free at {folder}",
                            hint="free some space: the same command downloads it again",
                        )
                    archive.extractall(folder, filter="data")

    def _fetch_archive(self, path: str, into: IO[bytes]) -> None:
        model_id, kind, name = _parts(path)
        try:
            self._request("GET", f"training_runs/{model_id}/checkpoints/{kind}/{name}/archive", into=into)
        except Rejected as e:
            if e.status != 404:
                raise
            self._request("GET", f"training_runs/{model_id}/checkpoints/{name}/archive", into=into)  # SkyRL's server

    # -- sampling ------------------------------------------------------------------------------------------------

    def sample(
        self, path: str, prompt_ids: Sequence[int], *, max_tokens: int, stop_ids: Sequence[int], seed: int,
        temperature: float = 0.0,
    ) -> list[int]:  # fmt: skip
        """The ids that the stored adapter says to a prompt, the end included where it came to one."""
        body = {
            "prompt": _model_input(prompt_ids), "model_path": path, "num_samples": 1, "type": "sample",
            "sampling_params": {
                "max_tokens": max_tokens, "stop": list(stop_ids), "temperature": temperature, "seed": seed
            },
        }  # fmt: skip
        match self.result(self._queue("asample", body)).get("sequences"):
            case [{"tokens": [*tokens]}, *_] if all(type(token) is int for token in tokens):
                return tokens
        raise _unreadable("asample")

    # -- requests ------------------------------------------------------------------------------------------------

    def _numbered(self, model_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """With the number of the request among those of its model, counted from 1."""
        self._sent[model_id] = self._sent.get(model_id, 0) + 1
        return {"model_id": model_id, "seq_id": self._sent[model_id], **body}

    def _queue(self, what: str, body: Mapping[str, Any]) -> str:
        return text_field(self._ask(what, body, once=True), "request_id", what)

    def _ask(self, what: str, body: Mapping[str, Any], *, once: bool = False, waits: bool = False) -> dict[str, Any]:
        return _fields(self._request("POST", what, body, once=once, waits=waits), what)

    def _request(
        self, method: str, what: str, body: Mapping[str, Any] | None = None, *, once: bool = False, waits: bool = False,
        into: IO[bytes] | None = None,
    ) -> httpx2.Response:  # fmt: skip
        """The answer, or what it holds written to a file. A request that must be made `once` is made again only where
        the server cannot have taken it.
        """
        retries = 0
        while True:
            try:
                answer = self._answer(method, what, body, into)
            except httpx2.RequestError as e:
                fault = fault_of(e)
                may_repeat = not once or isinstance(e, UNSENT)
            else:
                if answer.status_code < 400:
                    return answer
                if answer.status_code == 401 and self._token != self._key:
                    self._renew_token()
                    continue
                fault = from_status(answer.status_code, answer.headers, answer.text)
                if fault.rule.stops_the_run and fault.kind != "unknown_model":
                    raise fault.error_class(f"{fault.kind}: {fault.redacted(self._key)}", hint=fault.rule.hint or None)
                if answer.status_code not in (429, 500, 502, 503, 504) or (waits and answer.status_code == 500):
                    raise Rejected(answer.status_code, fault.evidence)
                may_repeat = not once or answer.status_code in (429, 503)
            if not may_repeat or retries == RETRIES:
                raise self._lost(what, fault)
            asked = fault.retry_after_seconds or 0.0
            time.sleep(max(asked, min(RETRY_SECONDS_MAX, self._retry_seconds * 2**retries)))
            retries += 1

    def _answer(
        self, method: str, what: str, body: Mapping[str, Any] | None, into: IO[bytes] | None
    ) -> httpx2.Response:  # fmt: skip
        """Of one request; what is not wanted in a file is read whole."""
        with self._http.stream(
            method, f"{self._url}/api/v1/{what}", json=body, headers=self._headers(), follow_redirects=True
        ) as answer:
            if into is None or answer.status_code >= 400:
                answer.read()
                return answer
            into.seek(0)  # what an attempt before has left there
            into.truncate()
            for chunk in answer.iter_bytes():
                into.write(chunk)
            return answer

    def _lost(self, what: str, fault: Fault) -> TennerError:
        return TennerError(
            f"the training service did not answer to {what}: {fault.redacted(self._key)}",
            hint="nothing is lost: the same command goes on from here",
        )

    def _headers(self) -> dict[str, str]:
        return {"X-API-Key": self._token} if self._token else {}

    def _renew_token(self) -> None:
        """Exchange the key for a token that lasts some minutes."""
        self._token = self._key
        self._token = text_field(self._ask("auth/token", {}), "jwt", "auth/token")

    def _beat(self) -> None:
        """Say every few seconds that the session lives; a beat that is missed is made up for by the next."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(httpx2.HTTPError, RuntimeError):  # RuntimeError: closed meanwhile
                self._http.post(
                    f"{self._url}/api/v1/session_heartbeat", headers=self._headers(), timeout=HEARTBEAT_SECONDS,
                    json={"session_id": self._session, "type": "session_heartbeat"},
                )  # fmt: skip


def connect(service: TrainingService) -> TinkerClient:
    """A client of a recipe's service, not yet entered. Raises TennerError where the key is missing."""
    return TinkerClient(service.base_url, key=key_in_environment(service.api_key_env))


def check(service: TrainingService) -> None:
    """Raise TennerError unless the service answers, takes the key and trains the model."""
    with connect(service) as client, rejections(client):
        known = client.models()
    if service.model not in known:
        listed = ", ".join(known[:MODELS_SHOWN]) + (", …" if len(known) > MODELS_SHOWN else "")
        raise TennerError(
            f"{service.base_url} does not train {service.model}",
            hint=did_you_mean(service.model, known, f"it trains {listed}"),
        )


@contextmanager
def rejections(client: TinkerClient) -> Iterator[None]:
    """Turn a refused request of the block into one line for the user."""
    try:
        yield
    except Rejected as e:
        raise client.error(e) from None


def _fields(answer: httpx2.Response, what: str) -> dict[str, Any]:
    """The object in the body of an answer. Raises TennerError where there is none."""
    try:
        found = answer.json()
    except (ValueError, RecursionError) as e:  # a web page, as where the address is that of something else
        raise _unreadable(what) from e
    if not isinstance(found, dict):
        raise _unreadable(what)
    return found


def text_field(found: Mapping[str, Any], name: str, what: str) -> str:
    """A name or a number in an answer, as text. Raises TennerError where there is none."""
    value = found.get(name)
    if not isinstance(value, str | int):
        raise _unreadable(what)
    return str(value)


def _texts(found: Mapping[str, Any], name: str, key: str, what: str) -> list[str]:
    """The same of each object in a list."""
    rows = found.get(name)
    if not isinstance(rows, list):
        raise _unreadable(what)
    return [text_field(mapping(row), key, what) for row in rows]


def _unreadable(what: str) -> TennerError:
    return TennerError(
        f"the training service's answer to {what} is not one of the Tinker protocol",
        hint="check train.tinker.base_url; nothing is lost: the same command goes on from here",
    )


@contextmanager
def _archive_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as e:
        raise TennerError(f"the archive of {path} is damaged: {e}", hint="the same command downloads it again") from e


def _parts(path: str) -> tuple[str, str, str]:
    """Model, kind and name of a path tinker://MODEL/KIND/NAME."""
    model_id, kind, name = path.removeprefix("tinker://").split("/")
    return model_id, kind, name


def _model_input(ids: Sequence[int]) -> dict[str, Any]:
    return {"chunks": [{"type": "encoded_text", "tokens": list(ids)}]}


def _tensor(values: Sequence[int] | Sequence[float], dtype: str) -> dict[str, Any]:
    return {"data": list(values), "dtype": dtype, "shape": [len(values)]}
