import json

from commands import tenner_here


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
