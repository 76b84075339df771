import json
import tomllib

from commands import tenner_here
from paths import ROOT

from tenner.commands import doctor


def test_every_extra_of_the_package_is_named_with_what_it_is_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = " ".join(doctor.LIBRARIES.values())
    assert [name for name in extras if f"tenner[{name}]" not in told] == ["docs", "test", "dev"]


def test_what_is_here_is_told_and_no_key_is(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret-77")
    monkeypatch.delenv("ZAI_API_KEY", raising=False)
    done = tenner_here("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["key of deepseek"] == "DEEPSEEK_API_KEY is set"
    assert found["key of glm"] == "ZAI_API_KEY is not set"
    assert {"tenner", "torch", "computes on", "free memory", "this folder", "engine hf", "engine vllm"} <= found.keys()
    lines = tenner_here("doctor").stdout
    assert "sk-secret-77" not in done.stdout + done.stderr + lines
    assert "key of deepseek" in lines
