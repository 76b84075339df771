import ast
import io
import json
from pathlib import Path

from rich.table import Table

import tenner
from tenner.commands import grade
from tenner.core.console import SafeConsole
from tenner.core.records import Grade
from tenner.core.terminal import one_line, say, visible

HOSTILE = "\x1b]0;owned\x07 \x1b[2J \x9b31m \u202etxt.exe \r\x08 \ud83d"


def test_control_characters_are_shown_and_ordinary_text_is_left_alone():
    shown = visible(HOSTILE)
    assert shown.startswith("\\u001b]0;owned\\u0007 \\u001b[2J \\u009b31m \\u202etxt.exe \\u000d\\u0008 \\ud83d")
    assert visible("Zürich\t½ 中文\n👩\u200d🔬") == "Zürich\t½ 中文\n👩\u200d🔬"


def test_a_message_is_one_line():
    assert one_line("no file a\n\x1b[2Jb\r\u2028\u2029") == "no file a\\n\\u001b[2Jb\\u000d\\u2028\\u2029"


def test_json_says_the_same_as_before():
    assert json.loads(visible(json.dumps({"a": HOSTILE}, ensure_ascii=False))) == {"a": HOSTILE}


def test_what_is_printed_steers_no_terminal(capsys):
    say(HOSTILE)
    said = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\x07", "\r", "\u202e"} & set(said)


def test_tables_and_styles_too():
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, color_system="truecolor", width=200)
    table = Table()
    table.add_column("x", header_style="red")
    table.add_row(visible("\x1b[2Jrow"))
    table.add_row("\x1b[2Jnot made visible, and so cut")
    console.print(table)
    console.print("\x1b]0;line\x1b\\", markup=False, style="bold", highlight=False)
    said = out.getvalue()
    assert "\\u001b[2Jrow" in said
    assert "\\u001b]0;line\\u001b" in said
    assert "\x1b[2J" not in said
    assert "\x1b]0" not in said
    assert "\x1b[1m" in said, "our own colours stay"


def test_a_table_of_verdicts_is_complete():
    rows = [("id\x1b[2J", Grade(verdict="wrong", extracted="\x9b31m", reason="\x1b]0;title\x1b\\"))]
    said = grade.as_text(rows)
    assert all(part in said for part in ("id\\u001b[2J", "\\u009b31m", "\\u001b]0;title"))


def test_nobody_else_prints():
    package = Path(tenner.__file__).parent
    printing = set()
    for source in package.rglob("*.py"):
        called = [node.func for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.Call)]
        if any(isinstance(f, ast.Name) and f.id in ("print", "Console") for f in called):
            printing.add(str(source.relative_to(package)))
    assert printing == {"core/terminal.py"}
