import hashlib
import html
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser_flags import CHROMIUM, FLAGS
from example_run import FAMILIES, HOSTILE, completion, run_facts, without_drawings

from tenner.budget.ledger_rows import SpendRow
from tenner.core.dollars import usd
from tenner.core.records import Completion
from tenner.evaluation.report.charts import accuracy_chart
from tenner.evaluation.report.facts import RunFacts, benchmark_facts
from tenner.evaluation.report.html import render_html
from tenner.evaluation.report.markdown import fenced, render_markdown
from tenner.evaluation.report.page import breakable
from tenner.evaluation.report.run_tables import plan_table
from tenner.evaluation.report.score_tables import score_tables, spend_table
from tenner.evaluation.report.sentences import charted_scores, comparison_note, headline, spend_note, training_note
from tenner.evaluation.statistics.scores import before_and_after, score

NBSP = "\u00a0"
DASH = "\u2013"

CUT_OFF = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"


class Page(HTMLParser):
    """The tags, the attributes that point somewhere, and the text of a page."""

    VOID = frozenset({"meta", "link", "input", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.pointers: list[str] = []
        self.cells: list[str] = []
        self.marked: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.pointers += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)
        for name, found in (("td", self.cells), ("mark", self.marked)):
            if tag == name:
                found.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data
        for name, found in (("td", self.cells), ("mark", self.marked)):
            if name in self.open:
                found[-1] += data


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return run_facts()


@pytest.fixture(scope="module")
def page_html(facts: RunFacts) -> str:
    return render_html(facts)


def test_the_page_is_whole_and_asks_the_network_for_nothing(page_html: str) -> None:
    page = Page(page_html)
    assert page.open == []
    assert all(pointer.startswith("#") or pointer == "data:," for pointer in page.pointers)
    assert not re.search(r"@import|url\((?!#)", page_html)
    assert page.counts["script"] == 3  # two of data, and the one that the policy names
    script = page_html.partition("<script>")[2].partition("</script>")[0]
    assert f"script-src 'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page_html
    assert "default-src 'none'" in page_html
    assert page.counts["h1"] == 1
    assert page.counts["svg"] == 12  # six charts, wide and narrow
    headings = re.findall(r'<h2 id="([^"]+)"', page_html)
    assert re.findall(r'<a href="#([^"]+)"', page_html) == headings
    ids = re.findall(r'\bid="([^"]+)"', page_html)
    assert len(ids) == len(set(ids))


def test_the_headline_says_before_after_intervals_n_cost_and_minutes(facts: RunFacts) -> None:
    before, after = before_and_after(facts.scores)
    sentence = headline(facts)
    for score_ in (before, after):
        assert f"{100 * score_.accuracy:.1f}{NBSP}%" in sentence
        assert f"{100 * score_.ci_low:.1f}\u2013{100 * score_.ci_high:.1f}{NBSP}%" in sentence
    assert sentence.count(f"n{NBSP}={NBSP}240") == 2
    assert "$0.0113" in sentence
    assert "7.0 minutes" in sentence
    assert "p\u00a0<\u00a00.001" in comparison_note(facts)


def test_the_page_begins_with_two_large_numbers_cost_and_time_and_ends_with_commands(
    facts: RunFacts, page_html: str
) -> None:
    before, after = before_and_after(facts.scores)
    numbers = re.findall(r'<dd class="number">(.*?)</dd><dd class="quiet">(.*?)</dd>', page_html)
    assert [number for number, _ in numbers] == [
        f"{100 * before.accuracy:.1f}{NBSP}%", f"{100 * after.accuracy:.1f}{NBSP}%", "$0.0113", f"7.0{NBSP}min",
    ]  # fmt: skip
    assert f"{100 * after.ci_low:.1f}\u2013{100 * after.ci_high:.1f}" in numbers[1][1]
    assert numbers[2][1] == "of $0.05 at most"
    for text in (page_html, render_markdown(facts._replace(folder="runs/demo"))):
        assert "What next" in text
    assert "tenner chat RUN" in page_html.partition("What next")[2]
    assert "tenner chat runs/demo  # talk to the student" in render_markdown(facts._replace(folder="runs/demo"))


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_both_forms_tell_the_same_facts(facts: RunFacts, page_html: str, form: str) -> None:
    raw = page_html if form == "html" else render_markdown(facts)
    text = Page(raw).text if raw.startswith("<!doctype") else re.sub(r"\\(.)", r"\1", html.unescape(raw))
    for said in (headline(facts), comparison_note(facts), spend_note(facts), "duplicate 198, in the benchmark 15"):
        assert said in text
    for family in FAMILIES:
        assert family in text
    for table in score_tables(facts):
        for row in table.rows:
            assert all(cell in text for cell in row)
    for fact in (*facts.provenance.values(), "nobody is paid", "$0.10 an hour", 'format = "s1"', "120,000 tokens"):
        assert fact in text


def test_every_accuracy_in_a_table_has_its_interval_and_n_beside_it(page_html: str) -> None:
    cells = Page(page_html).cells
    accuracies = [i for i, cell in enumerate(cells) if re.fullmatch(rf"[\d.]+{NBSP}%", cell)]
    assert len(accuracies) == 2 * 2 * 8 + 2 * len(FAMILIES) + 2  # of completed answers, too, and the best of each sweep
    for i in accuracies:
        assert re.fullmatch(rf"[\d.]+\u2013[\d.]+{NBSP}%", cells[i + 1])
        assert re.fullmatch(r"\d+", cells[i + 2])


def test_several_answers_and_missing_ones_are_told_with_their_intervals(facts: RunFacts) -> None:
    done = [
        completion(q, v, student=student).model_copy(update={"sample_index": i})
        for student in ("base", "distilled")
        for q, verdicts in {"a": ("correct",) * 3, "b": ("wrong", "correct", "wrong"), "c": ("wrong",)}.items()
        for i, v in enumerate(verdicts)
    ]
    scores = score(done, dict.fromkeys("abc"), samples=3)
    repeated = without_drawings(facts)._replace(benchmarks=[benchmark_facts("heldout", scores, done, machine_usd=0.0)])
    single, together = score_tables(repeated)[:2]
    assert single.header[-1] == "missing"
    assert single.rows[0][-1] == "2"
    assert together.rows[0][2] == "3"
    assert together.rows[0][3::3] == (f"50.0{NBSP}%", f"100.0{NBSP}%")
    assert together.rows[0][5::3] == ("2", "2")  # c has no vote of three
    assert "right more often after" in comparison_note(repeated)
    assert "questions as clusters" in render_html(repeated)
    assert "majority right" in render_markdown(repeated)


def test_forced_tokens_are_marked_for_eyes_and_ears_and_hostile_text_stays_text(page_html: str) -> None:
    page = Page(page_html)
    assert [page.marked[0], page.marked[-1]] == ["marked", "marked"]  # the legends of examples and samples
    assert page.marked[1:-1] == [
        f"[put in: {text}]" for text in ("<|im_start|>think", "Wait", "<|im_start|>answer", "Answer:", "Answer:")
    ]
    assert "```<script>alert(1)</script>```" in page.text
    assert "Is <b>5 & 6</b> more than |x|?" in page.text


def test_markdown_marks_forced_tokens_and_no_text_breaks_out(facts: RunFacts) -> None:
    text = render_markdown(facts)
    assert "⟦Wait⟧, last flip was C: T T T." in text
    assert "````\n```<script>" in text  # a longer fence around a fence
    assert "<b>" not in text
    assert "](accuracy.svg)" in text
    assert accuracy_chart(charted_scores(facts)).startswith("<svg")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert set(widths) == {3, 5, 6, 7, 8, 9, 10}  # by width of table: no cell is split


def test_a_bar_in_a_cell_does_not_split_it(facts: RunFacts) -> None:
    text = render_markdown(facts._replace(provenance={"com|mit": "a|b\nc"}))
    assert "| com\\|mit | a\\|b c |" in text


def test_a_free_teacher_is_said_to_be_free_and_a_paid_one_is_not(facts: RunFacts) -> None:
    assert "The teacher reference-solution was free" in spend_note(facts)
    paid = SpendRow("trace", "openai", "o9", 10, 100, 200, 0.0, 1.25, "$1 in, $8 out")
    note = spend_note(facts._replace(spend=[paid, facts.spend[0]], budget_usd=None))
    assert "free" not in note
    assert note.startswith("$1.25 in all, $0.0011 of it for machine time. There was no cap.")
    table = spend_table(facts._replace(spend=[paid]))
    assert table.rows[0][1] == "openai/o9"
    assert table.total[6] == "$1.25"


def test_a_family_that_one_student_has_not_met_has_no_number(facts: RunFacts) -> None:
    scores = [s for s in facts.scores if not (s.student == "base" and s.domain == "bills")]
    changed = facts._replace(benchmarks=[facts.benchmarks[0]._replace(scores=scores)])
    assert re.search(r"\| bills \| \u2013 \| \u2013 \| 0 \| \d", render_markdown(changed))


def test_one_question_alone_makes_a_report(facts: RunFacts) -> None:
    done: list[Completion] = [completion("a", "wrong"), completion("a", "unparsed", student="distilled")]
    scores = score(done, {"a": None})
    small = without_drawings(facts)._replace(
        benchmarks=[benchmark_facts("heldout", scores, done, machine_usd=0.0)], training=facts.training[:1]
    )
    page = render_html(small)
    assert "n\u00a0=\u00a01" in page
    ids = re.findall(r'<h2 id="([^"]+)"', page)
    assert "examples" not in ids, "an empty section"
    assert "samples" not in ids
    assert re.findall(r'<a href="#([^"]+)"', page) == ids
    assert "<script" not in page
    assert "p\u00a0=\u00a01.000" in render_markdown(small)


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "$0.00"), (0.05, "$0.05"), (0.01126, "$0.0113"), (1.234, "$1.23"), (1234.5, "$1,234.50")]
)
def test_dollars(amount: float, shown: str) -> None:
    assert usd(amount) == shown


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fenced("a ```` b") == "`````\na ```` b\n`````"


def test_a_provider_and_its_model_may_stand_in_two_lines():
    assert breakable("127.0.0.1/<b>") == "127.0.0.1/<wbr>&lt;b&gt;"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium found")
def test_a_browser_without_network_shows_it_all_and_filters_the_samples(page_html: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright  # half a second, for each worker

    file = tmp_path / "report.html"
    file.write_text(page_html, "utf-8")
    faults: list[str] = []
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        page = browser.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None)
        for width, scheme in ((390, "dark"), (1280, "light")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(file.as_uri())
            page.locator("#browser li").first.wait_for()
            assert page.evaluate("document.scrollingElement.scrollWidth") == width
            assert page.evaluate(CUT_OFF) == []
            assert page.locator("svg:visible").count() == 6
        rows, told = page.locator("#browser li"), page.locator("#browser [role=status]")
        assert (rows.count(), told.text_content()) == (25, "240 of 240 questions")
        page.locator(".more").click()
        assert rows.count() == 50
        page.locator("[name=words]").fill("flip 239:")
        page.get_by_text("1 of 240 questions").wait_for()
        page.locator("[name=words]").fill("onerror")
        rows.get_by_text("onerror").wait_for()  # the row of the search before is gone
        assert told.text_content() == "1 of 240 questions"
        rows.first.locator("summary").click()
        page.locator(".sides").wait_for()
        said = page.locator(".sides .thinking").last.text_content() or ""
        assert said == f"thinking: {HOSTILE}[put in: Wait]"
        assert page.locator("#browser img").count() == 0
        assert page.title() == "tenner: demo"
        page.locator("[name=words]").fill("")
        page.get_by_text("240 of 240 questions").wait_for()
        page.locator("[name=verdict]").select_option("fixed")
        assert set(page.locator(".verdicts").all_text_contents()) == {"wrong → correct"}
        page.emulate_media(media="print")
        assert page.locator("#browser").is_hidden()
        assert page.evaluate(CUT_OFF) == []
    assert faults == []


def test_what_was_expected_stands_beside_what_it_took(facts: RunFacts, page_html: str) -> None:
    table = plan_table(facts)
    assert table.rows == [
        ("train", "180", f"60{DASH}400", "203", "$0.0050", f"$0.0020{DASH}$0.0110", "$0.0056"),
        ("evaluate", DASH, DASH, "161", DASH, DASH, "$0.0045"),
    ]
    for page in (render_markdown(facts), page_html):
        assert table.caption in page
    unplanned = without_drawings(facts)
    assert table.caption not in render_markdown(unplanned) + render_html(unplanned)


def test_the_memory_that_was_expected_stands_beside_what_was_taken(facts: RunFacts) -> None:
    assert "of memory" not in training_note(facts)
    plan = [stage.model_copy(update={"memory_bytes": 2_900_000_000 * (stage.stage == "train")}) for stage in facts.plan]
    training = [
        step.model_copy(update={"memory_bytes": taken})
        for step, taken in zip(facts.training, (2_500_000_000, 3_149_144_064), strict=False)
    ]
    said = training_note(facts._replace(plan=plan, training=training))
    assert "It took at most 3.15 GB of memory; 2.90 GB were expected." in said
