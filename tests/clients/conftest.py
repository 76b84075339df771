"""What the tests of paid calls share."""

import pytest


@pytest.fixture(autouse=True)
def errors_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no error as late: servers on loopback send them in milliseconds, but a busy machine may stretch that."""
    monkeypatch.setattr("tenner.clients.attempt_times.WORK_SECONDS_MIN", 10.0)
