import re

from tenner.core import progress


def test_lines_say_how_long_it_will_take(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("tenner.core.progress.time.monotonic", lambda: clock[0])
    with progress.Screen().bar("trace", 110) as bar:
        for done in (10, 20, 60, 110):  # ten were done before
            bar.update(done, "$0.0100 spent")
            clock[0] += 30
    assert capsys.readouterr().err.splitlines() == [
        "trace 20/110 $0.0100 spent  4.5 min left",
        "trace 60/110 $0.0100 spent  1.0 min left",
        "trace 110/110 $0.0100 spent",
    ]


def test_at_first_it_takes_as_long_as_was_expected_and_later_as_the_pace_says(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("tenner.core.progress.time.monotonic", lambda: clock[0])
    with progress.Screen().bar("evaluate", 100, expected_seconds=600.0) as bar:
        for done in (0, 0, 1, 50, 99):  # the pace becomes twice as fast as expected
            bar.update(done)
            clock[0] += 60
    assert capsys.readouterr().err.splitlines() == [
        "evaluate 0/100  9.0 min left",
        "evaluate 1/100  8.0 min left",
        "evaluate 50/100  4.0 min left",
        "evaluate 99/100  0.1 min left",
    ]


def test_what_takes_longer_than_was_expected_is_not_said_to_be_over(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("tenner.core.progress.time.monotonic", lambda: clock[0])
    with progress.Screen().bar("attempt", 16, expected_seconds=20.0) as bar:
        for done in (0, 1, 4):
            clock[0] += 60
            bar.update(done)
    assert capsys.readouterr().err.splitlines() == ["attempt 0/16", "attempt 1/16", "attempt 4/16  4.0 min left"]


def test_nothing_is_printed_faster_than_a_reader_wants(capsys):
    with progress.Screen().bar("trace", 10) as bar:
        for done in range(10):
            bar.update(done)
    assert not re.search("trace", capsys.readouterr().err)
