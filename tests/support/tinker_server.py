"""A service on loopback that speaks the Tinker protocol: it counts steps instead of computing them.

Its models know how many steps they have made, and which gradients are waiting. Connections can be broken off at any
request, before or after it is taken.
"""

import io
import json
import re
import tarfile
import threading
from collections import Counter

import torch
from loopback_server import LoopbackServer
from safetensors.torch import save

MODEL = "org/tiny"
KEY = "tml-test-key-0123456789"
ALPHA = 32
NAME = re.compile(r"[a-zA-Z0-9_-]+")


def tokens_of(body):
    """The tokens that a request for gradients is paid by."""
    data = body["forward_backward_input"]["data"]
    return sum(len(chunk["tokens"]) for datum in data for chunk in datum["model_input"]["chunks"])


def adapter_archive(config, rank, value):
    """Adapters of the query projections of a model of this configuration, as SkyRL's server packs them."""
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = torch.full((rank, config["hidden_size"]), value)
        tensors[f"{prefix}.lora_B.weight"] = torch.full((config["hidden_size"], rank), value)
    files = {
        "adapter_model.safetensors": save(tensors),
        "adapter_config.json": json.dumps({"r": rank, "lora_alpha": ALPHA, "target_modules": None}).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class Refused(Exception):
    def __init__(self, status, detail):
        super().__init__(detail)
        self.status, self.detail = status, detail


class TinkerServer(LoopbackServer):
    """`breaks` holds (endpoint, number, "before" or "after"): at that request the connection is closed unanswered."""

    def __init__(self, model_config, *, can_delete=True, tells_norm=True):
        super().__init__()
        self.model_config, self.can_delete, self.tells_norm = model_config, can_delete, tells_norm
        self.breaks, self.tokens = set(), 0
        self.asked: Counter[str] = Counter()
        self.models, self.states, self.results, self.deleted = {}, {}, {}, []
        self.fails, self.steps_tokens = False, []
        self.says = []
        """What it samples, request by request."""
        self.samples_from_memory_only = False
        """As SkyRL's server."""
        self._lock = threading.Lock()

    def answer_request(self, handler, body):
        method, path = handler.command, handler.path.removeprefix("/api/v1/")
        body = json.loads(body or "{}")
        endpoint = path.rpartition("/")[2] if "/" in path else path
        with self._lock:
            self.asked[endpoint] += 1
            moment = endpoint, self.asked[endpoint]
            if (*moment, "before") in self.breaks:
                handler.close_connection = True
                return
            try:
                if handler.headers.get("x-api-key") != KEY:
                    raise Refused(401, "Invalid API key")
                status, answer = 200, self._do(method, path, endpoint, body)
            except Refused as refused:
                status, answer = refused.status, {"detail": refused.detail}
            if (*moment, "after") in self.breaks:
                handler.close_connection = True
                return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def forget_models(self):
        """As after a restart: what is stored is still there."""
        self.models.clear()

    def _do(self, method, path, endpoint, body):
        if path in ("client/config", "session_heartbeat"):
            return {}
        if path == "create_session":
            return {"session_id": "session"}
        if path == "get_server_capabilities":
            return {"supported_models": [{"model_name": MODEL}]}
        if path == "retrieve_future":
            found = self.results[body["request_id"]]
            if isinstance(found, Refused):
                raise found
            return found
        if path.startswith("training_runs/"):
            return self._storage(method, *path.split("/"))
        try:
            result = getattr(self, endpoint)(body)
        except Refused as refused:
            if refused.status == 409:
                raise
            result = refused
        request_id = str(len(self.results))
        self.results[request_id] = result
        return {"request_id": request_id}

    def _storage(self, method, _runs, model_id, _checkpoints, *rest):
        if method == "DELETE":
            path = f"tinker://{model_id}/{rest[0]}/{rest[1]}"
            if not self.can_delete:
                raise Refused(404, "Not Found")
            del self.states[path]
            self.deleted.append(path)
            return {}
        if not rest:
            paths = [path for path in self.states if path.startswith(f"tinker://{model_id}/")]
            return {"checkpoints": [{"tinker_path": path} for path in paths]}
        rank, steps, _ = self.states[f"tinker://{model_id}/{rest[0]}/{rest[1]}"]
        return adapter_archive(self.model_config, rank, steps / 1000)

    # -- what is queued: a model is [rank, steps made, tokens of the gradients that wait] -----------------------------

    def _model(self, body):
        if body["model_id"] not in self.models:
            raise Refused(400, f"Model {body['model_id']} not loaded")
        return self.models[body["model_id"]]

    def create_model(self, body):
        assert body["base_model"] == MODEL
        model_id = f"model-{self.asked['create_model']}"
        self.models[model_id] = [body["lora_config"]["rank"], 0, 0]
        return {"model_id": model_id}

    def unload_model(self, body):
        self._model(body)
        del self.models[body["model_id"]]
        return {}

    def forward_backward(self, body):
        model, tokens = self._model(body), tokens_of(body)
        if self.fails:
            raise Refused(400, "out of memory")
        self.tokens += tokens
        self.steps_tokens.append(tokens)
        model[2] += tokens
        data = body["forward_backward_input"]["data"]
        rows = [{"logprobs": {"data": [-2.0] * len(d["loss_fn_inputs"]["target_tokens"]["data"])}} for d in data]
        return {"loss_fn_outputs": rows, "metrics": {}}

    def optim_step(self, body):
        model = self._model(body)
        norm, model[2] = float(model[2] > 0), 0
        model[1] += 1
        return {"metrics": {"grad_norm": norm} if self.tells_norm else {}}

    def save_weights(self, body, kind="weights"):
        path = f"tinker://{body['model_id']}/{kind}/{body['path']}"
        assert NAME.fullmatch(body["path"])
        if path in self.states:
            raise Refused(409, "exists")
        self.states[path] = tuple(self._model(body))
        return {"path": path}

    def save_weights_for_sampler(self, body):
        return self.save_weights(body, "sampler_weights")

    def asample(self, body):
        assert body["model_path"] in self.states
        if self.samples_from_memory_only:
            self._model({"model_id": body["model_path"].split("/")[2]})
        said = self.says.pop(0)
        return {"sequences": [{"tokens": said[: body["sampling_params"]["max_tokens"]]}]}

    def load_weights(self, body):
        self._model(body)[:] = self.states[body["path"]]
        return {}
