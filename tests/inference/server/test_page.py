"""The page as people meet it: a real browser before a real server before a tiny real model."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import load_generator
import pytest
import torch
from browser_flags import CHROMIUM, FLAGS
from playwright.sync_api import Page, sync_playwright
from short_format import SHORT
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner.core.chat_template import ChatTemplate
from tenner.core.records import Policy
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Prompt
from tenner.inference.server.app import Serving, Settings, serving
from tenner.inference.server.served_student import ExampleQuestion, RecordedAnswer

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium found")]
SETTINGS = Settings("127.0.0.1", 0, None, concurrency_max=8, request_bytes_max=1 << 20, price_usd_per_hour=0.36)
HOSTILE = """<script>document.title="owned"</script><img src=x onerror='document.title="owned"'><b>5</b>"""
QUESTION = "<i>How many</i> are there?"


@contextmanager
def served(engine: HFEngine, settings: Settings = SETTINGS, **defaults: Any) -> Iterator[Serving]:
    """A server in a thread of its own."""
    started, ended = threading.Event(), asyncio.Event()
    found: list[Serving] = []
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with serving(
            engine, load_generator.student(Path("of the engine"))._replace(**defaults), settings
        ) as server:
            found.append(server)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert started.wait(30)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser's page that has no error to tell when the test ends."""
    faults: list[str] = []
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        page = browser.new_page(viewport={"width": 900, "height": 800})
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        yield page
    assert [f for f in faults if "401" not in f] == []


def greet(page: Page, server: Serving) -> None:
    page.goto(server.url)
    page.locator("#send:enabled").wait_for()


def answered(page: Page, question: str) -> None:
    """Ask by keyboard alone, and wait for the answer's end."""
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    page.locator("article.busy").wait_for(state="detached")


@pytest.fixture(scope="module")
def lively(lively_model_dir: Path) -> HFEngine:
    return load_generator.load(lively_model_dir)


def test_asking_thinking_and_the_slider(page: Page, lively: HFEngine) -> None:
    def expected(policy: Policy) -> tuple[str, str]:
        prompt = Prompt("alone", ChatTemplate(lively.tokenizer, system_prompt=None).question("What is 2?").text)
        (g,) = lively.sweep([prompt], [policy], SHORT, answer_tokens_max=load_generator.ANSWER_TOKENS_MAX)
        return g.thinking, g.answer

    def shown(part: str) -> str:
        """The text as it was written, without what is for ears only."""
        for button in page.get_by_role("button", name="As written").all():
            button.click()
        return str(
            page.locator(f"article .{part}").last.evaluate(
                "e => { const c = e.cloneNode(true); c.querySelectorAll('.unseen').forEach(u => u.remove());"
                "return c.textContent }"
            )
        )

    with served(lively) as server:
        greet(page, server)
        assert page.locator("#tokens").text_content() == "≤ 64 tokens"
        page.locator("#waits").fill("2")
        answered(page, "What is 2?")
        thinking, answer = expected(Policy(thinking_tokens_max=64, waits=2))
        assert (shown("thinking"), shown("answer")) == (thinking, answer)
        assert not page.locator("article details").last.evaluate("e => e.open"), "folded when it is done"
        page.locator("summary").last.press("Enter")
        assert page.locator("article .thinking").last.is_visible()
        assert "Wait]" in (page.locator("article .thinking mark").first.text_content() or "")
        note = page.locator("article .note").last.text_content() or ""
        assert "tokens of thinking" in note
        assert "$0.0" in note
        page.locator("#waits").fill("0")
        page.locator("#budget").focus()
        page.keyboard.press("Home")
        assert page.locator("#tokens").text_content() == "none"
        answered(page, "What is 2?")
        assert (shown("thinking"), shown("answer")) == expected(Policy(thinking_tokens_max=0))
        page.locator("#budget").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert page.locator("#tokens").text_content() == "≤ 12 tokens"
        answered(page, "What is 2?")
        assert (shown("thinking"), shown("answer")) == expected(Policy(thinking_tokens_max=12))
        page.locator("#budget").focus()
        page.keyboard.press("End")
        page.get_by_text("Again, with the settings below").last.click()
        page.locator("article.busy").wait_for(state="detached")
        assert (shown("thinking"), shown("answer")) == expected(Policy(thinking_tokens_max=128))
        beside = page.locator("article:last-child .attempt")
        assert beside.locator(".limit").all_text_contents() == [
            "at most 12 tokens of thinking", "at most 128 tokens of thinking"
        ]  # fmt: skip
        first, second = (beside.nth(i).bounding_box() for i in (0, 1))
        assert first is not None
        assert second is not None
        assert first["y"] == second["y"]
        assert first["x"] < second["x"]
        page.set_viewport_size({"width": 380, "height": 700})
        assert page.evaluate("document.scrollingElement.scrollWidth") == 380


FORMATTED = [
    ("So **42** and *x*, `a < b`", "So <strong>42</strong> and <em>x</em>, <code>a &lt; b</code>"),
    (" $5, not $6 or $7-$8\n", " $5, not $6 or $7-$8\n"),
    ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ("3. c", '<ol start="3"><li>c</li></ol>'),
    ("# A\n\n1 < 2", "<h4>A</h4><p>1 &lt; 2</p>"),
    ("<b onclick=alert(1)>5</b>", "&lt;b onclick=alert(1)&gt;5&lt;/b&gt;"),
    ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
    ("[a](ftp://b.org)", "<a>a</a>"),
    ("$\\notacommand$", '<span class="tex unread">\\notacommand</span>'),
    ("$\\href{javascript:alert(1)}{a$", '<span class="tex unread">\\href{javascript:alert(1)}{a</span>'),
]
"""What a model writes, and the markup it becomes."""
TEX = [r"$x^2$", r"\(x^2\)", "$$\nx^2\n$$", "Text\n\\[\nx^2\n+ 1\n\\]", r"a $$x^2$$ b"]


def test_markdown_and_tex_are_shown_as_what_they_mean_and_html_is_text(page: Page, lively: HFEngine) -> None:
    def markup(text: str) -> str:
        made = "text => { const made = document.createElement('div'); made.append(formattedText(text)); return "
        return str(page.evaluate(f"{made} made.innerHTML }}", text))

    with served(lively) as server:
        greet(page, server)
        for written, meant in FORMATTED:
            assert markup(written) == meant
        for written in TEX:
            assert "<msup>" in markup(written), written
        assert 'rel="noopener noreferrer"' in markup("[a](https://b.org)")
        assert "<img" not in markup("![a](https://b.org/x.png) <img src=x onerror=alert(1)>")
        assert "href=" not in markup(r"$\href{javascript:alert(1)}{x}$")


def test_an_example_is_answered_beside_what_was_said_before_the_training(page: Page, lively: HFEngine) -> None:
    before = RecordedAnswer("Hm. <b>", "**7**", "wrong")
    examples = (ExampleQuestion("What is 2?", before), ExampleQuestion("What is 3?", None))
    with served(lively, examples=examples) as server:
        greet(page, server)
        page.get_by_role("button", name="What is 2?").click()
        page.locator("article:not(.busy)").wait_for()
        sides = page.locator("article .attempt")
        assert sides.locator(".limit").all_text_contents() == [
            "before training, as the run has recorded it", "after training, at most 64 tokens of thinking",
        ]  # fmt: skip
        assert sides.nth(0).locator(".answer strong").text_content() == "7"
        assert sides.nth(0).locator(".note").text_content() == "wrong"
        assert sides.nth(0).locator(".thinking").text_content() == "Hm. <b>"


def test_stop_releases_the_request(page: Page, tiny_model_dir: Path) -> None:
    with served(HFEngine.load(tiny_model_dir), answer_tokens_max=900, thinking_tokens_max=64) as server:
        greet(page, server)
        for stop in (lambda: page.locator("#stop").click(), lambda: page.keyboard.press("Escape")):
            page.locator("#question").fill("On and on?")
            page.keyboard.press("Enter")
            page.locator("article:last-child .answer:not(:empty)").wait_for()
            stop()
            page.locator("article.busy").wait_for(state="detached")
            assert page.locator("article .note").last.text_content() == "stopped"
            for _ in range(100):  # the server hears of it a moment later
                if server.queue.active:
                    page.wait_for_timeout(50)
            assert server.queue.active == 0
            assert page.locator("#send").is_visible()


def test_the_key_is_asked_for(page: Page, lively: HFEngine) -> None:
    with served(lively, SETTINGS._replace(api_key="sesame")) as server:
        page.goto(server.url)
        page.locator("#key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("wrong or missing API key").wait_for()
        page.locator("#key").fill("sesame")
        page.keyboard.press("Enter")
        page.locator("#send:enabled").wait_for()
        answered(page, "What is 2?")
        assert page.locator("article .fault").count() == 0


@pytest.fixture(scope="module")
def hostile_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, trained until it answers the one question with HTML and script, and thinks in it too."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(tiny_model_dir, folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    prompt = ChatTemplate(tokenizer, system_prompt=None).question(QUESTION).text + SHORT.open
    ids = [*tokenizer.encode(prompt + HOSTILE + SHORT.close + HOSTILE, add_special_tokens=False), 2]
    ids_1T = torch.tensor([ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = torch.tensor(torch.inf)
    while loss.item() > 0.02:
        optimizer.zero_grad()
        loss = model(ids_1T, labels=ids_1T).loss
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def test_html_and_script_are_text(page: Page, hostile_model_dir: Path) -> None:
    engine = HFEngine.load(hostile_model_dir, dtype=torch.float32)
    with served(engine, answer_tokens_max=200, thinking_tokens_max=200) as server:
        greet(page, server)
        answered(page, QUESTION)
        assert page.locator("article .answer").text_content() == HOSTILE
        assert page.locator("article .thinking").text_content() == HOSTILE
        assert page.locator("article h2").text_content() == QUESTION
        assert page.locator("article :is(script, img, b, i)").count() == 0
        assert page.title() == "tiny · tenner"
