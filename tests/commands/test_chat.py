"""`tenner chat`: commands between questions, and Ctrl-C that stops an answer and not the talk."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from tenner.commands.chat import Setting
from tenner.core.errors import TennerError

SETTING = Setting(64, 0)


@pytest.mark.parametrize(
    ("line", "after"),
    [("/thinking 8", Setting(8, 0)), ("/waits 2", Setting(64, 2)), ("/waits  1 ", Setting(64, 1)), ("/help", SETTING)],
)
def test_a_command_changes_how_the_next_question_is_asked(line, after):
    assert SETTING.after(line) == after


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/waits", "/waits needs a number", "write /waits 2"),
        ("/thinking many", "/thinking needs a number", "write /thinking 2"),
        pytest.param("/waits " + "9" * 5000, "/waits needs a number", "write /waits 2", id="5,000 digits"),
        ("/waits -1", "-1 is negative", "give a number from 0"),
        ("/thinkng 8", "there is no command /thinkng", "did you mean /thinking?"),
    ],
)
def test_what_is_no_command_is_said_and_changes_nothing(line, message, hint):
    with pytest.raises(TennerError) as e:
        SETTING.after(line)
    assert (str(e.value), e.value.hint) == (message, hint)


def test_waits_without_thinking_are_refused_and_one_wait_is_one():
    with pytest.raises(TennerError, match="no effect with a thinking budget of 0"):
        Setting(0, 0).after("/waits 1")
    assert str(Setting(1000, 1)) == "at most 1,000 thinking tokens, 1 wait"
    assert str(SETTING) == "at most 64 thinking tokens, 0 waits"


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_the_talk_goes_on(tiny_model_dir):
    """On a terminal: an answer is broken off, a setting changed, the next question answered; nothing tracebacks."""
    command = [sys.executable, "-m", "tenner", "chat", str(tiny_model_dir), "--format", "s1", "--answer", "4"]
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        [*command, "--thinking", "900"], stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    )
    os.close(inner)
    said = b""

    def until(text: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + 120
        while text not in said:
            assert time.monotonic() < deadline, said
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 65536)
        said = said.partition(text)[2]

    try:
        until(b"> ")
        os.write(terminal, b"What is 1+1?\n")
        until(b"What is 1+1?\r\n")
        until(b"\r\n\r\n\r\n")  # the tiny model says nothing but new lines: it has begun
        process.send_signal(signal.SIGINT)
        until(b"stopped\r\n")
        until(b"> ")
        os.write(terminal, b"/thinking 4\n")
        until(b"at most 4 thinking tokens, 0 waits")
        os.write(terminal, b"What is 2+2?\n")
        until(b"4 tokens of thinking, ")
        os.write(terminal, b"\n")
        assert process.wait(timeout=60) == 0
        assert b"Traceback" not in said
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
