import pytest

from tenner.core.console import SafeConsole, fitting_table

SCORES = {
    "student": ["base", "distilled"],
    "thinking\n+ waits": ["≤ 64", "≤ 64 + 2"],
    "accuracy": ["4.0%", "85.5%"],
    "interval": ["2.0 to 7.7", "80.0 to 89.7"],
    "n": ["200", "201"],
    "thinking/\nanswers cut": ["103/75", "44/12"],
    "unparsed": ["9", "10"],
}


def printed(width, title=None):
    console = SafeConsole(width=width, highlight=False)
    with console.capture() as captured:
        console.print(fitting_table(SCORES, width=width, left=list(SCORES)[:2], title=title))
    return captured.get()


@pytest.mark.parametrize("width", [34, 40, 60, 72, 100])
def test_however_narrow_the_terminal_no_digit_is_lost(width):
    lines = printed(width).splitlines()
    assert max(map(len, lines)) <= width
    for row in zip(*SCORES.values(), strict=True):
        of_row = " ".join(line for line in lines if line.startswith(row[0])).split()
        assert set(" ".join(row).split()) <= set(of_row)


def test_what_fits_is_one_table_and_names_of_rows_are_repeated_where_it_does_not():
    assert printed(100).count("distilled") == 1
    narrow = printed(50, title="AIME24")
    assert narrow.count("distilled") == 2
    assert narrow.count("AIME24") == 1
    assert narrow.index("89.7") < narrow.index("\n\n") < narrow.index("103/75")
