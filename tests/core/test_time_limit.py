"""Programs of strangers that do not come to an end."""

import threading
import time
from contextlib import suppress

import pytest

from tenner.core.time_limit import TimeLimitPassed, time_limit


def forever():
    while True:
        pass


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize("run", [lambda function: function(), in_a_thread], ids=["main thread", "another"])
def test_what_runs_too_long_is_interrupted_in_its_own_thread(run):
    caught = []

    def limited():
        try:
            with time_limit(0.05):
                forever()
        except TimeLimitPassed as passed:
            caught.append(passed)

    run(limited)
    assert len(caught) == 1


def test_nothing_is_interrupted_after_its_end():
    for _ in range(300):
        with suppress(TimeLimitPassed), time_limit(0.001):
            time.sleep(0.0009)  # the limit passes about now, before the end or after it
        sum(range(1000))


def test_errors_of_the_program_stay_what_they_are():
    with pytest.raises(ZeroDivisionError), time_limit(5):
        1 / 0  # noqa: B018
