"""A stage by its own verb: what its exit code says."""

import json

import pytest
from chat_server import ChatServer
from commands import tenner_here
from paid import PRICE

from tenner.core import recipe
from tenner.core.progress import Screen
from tenner.core.records import FailedCall, Label, Question
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder

ASKED = ["1+1?", "2+2?", "3+3?", "4+4?"]


@pytest.mark.parametrize(("behaviour", "exit_code"), [("good", 0), ("refused", 4), ("overloaded", 4)])
def test_the_exit_code_tells_of_a_labellers_failed_calls(behaviour, exit_code, tmp_path):
    with ChatServer({"3+3?": [behaviour]}) as server:
        price = ", ".join(f"{name} = {value}" for name, value in PRICE.model_dump(exclude_none=True).items())
        labeller = (
            f"{{client = 'openai', base_url = '{server.url}', model = 'm', output_tokens_max = 500, attempts_max = 1, "
            f"price = {{{price}}}}}"
        )
        overrides = ["select.samples=2", "domains.by=model", f"domains.labeller={labeller}"]
        described = recipe.load("demo", overrides=overrides)
        with open_run(tmp_path / "run", described, Screen(), budget_usd=None) as run:
            run.folder.write(
                "clean", [Question(id=f"q{i}", question=text, source="t", answer="1") for i, text in enumerate(ASKED)]
            )
            for stage in described.stages[: described.stages.index("select")]:
                done = {"name": stage, "seconds": 0.0, "items_in": 4, "items_out": 4}
                run.folder.write_text(f"stages/{stage}.json", json.dumps(done))
        told = tenner_here("select", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert told.returncode == exit_code, told.stderr
    assert len(folder.read("labels", Label)) == {"good": 4, "refused": 3, "overloaded": 0}[behaviour]
    if exit_code:
        assert "1 call" in told.stderr
        assert len(folder.read("failed-select", FailedCall)) == (behaviour == "refused")
