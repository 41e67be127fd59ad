"""The command and its listening, and the pages in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from kar.store import Home
from tests.browse import planted

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH (apt-get install chromium)")
WIDTHS = (320, 390, 768, 1280)


@contextlib.contextmanager
def served(home: Home, world: planted.World, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`kar browse` as a process of its own on a free port; its address and the process."""
    settings = home.root / "planted.toml"
    scenario, sources = planted.sections(world, home.root)["scenario"], planted.sections(world, home.root)["sources"]
    lines = [
        "[scenario]",
        *(f"{k} = {json.dumps(v)}" for k, v in scenario.items()),
        "[sources]",
        f"folder = {json.dumps(sources['folder'])}",
    ]
    lines += ["rating_range = [1, 5]", "[sources.interactions]", 'path = "x.csv"', 'format = "csv"', "columns = {}"]
    settings.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "kar", "browse", "--settings", str(settings), "--home", str(home.root), *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.match(r"(http://[^ ]+)/ ", first)
        yield found.group(1) if found else "", process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_on_loopback_and_a_signal_ends_it_quietly(home: Home, stop: signal.Signals) -> None:
    with served(home, planted.World(), "--port", "0") as (address, process):
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", address)
        with urllib.request.urlopen(f"{address}/user?id=1", timeout=20) as answer:
            assert b"user.preference" in answer.read()
            assert "server" not in answer.headers
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{address}/", headers={"Host": "evil.example"}), timeout=20)
        with refused.value as answer:
            assert answer.code == 421
        process.send_signal(stop)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0
        assert said == ""


@pytest.mark.slow
def test_a_port_in_use_is_a_named_error(home: Home) -> None:
    with (
        served(home, planted.World(), "--port", "0") as (address, _),
        served(home, planted.World(), "--port", address.rsplit(":", 1)[1]) as (none, second),
    ):
        assert none == ""
        _, said = second.communicate(timeout=20)
        assert second.returncode == 1
        assert said.startswith(f"kar: cannot listen on 127.0.0.1, port {address.rsplit(':', 1)[1]}")
        assert "Traceback" not in said


@pytest.mark.slow
def test_a_signal_at_whatever_moment_after_the_address_was_told_ends_it(home: Home) -> None:
    for place in range(8):
        with served(home, planted.World(), "--port", "0") as (_, process):
            time.sleep(0.03 * place)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
            assert process.returncode == 0, place


@pytest.mark.slow
def test_another_host_is_warned_of(home: Home) -> None:
    with served(home, planted.World(), "--host", "0.0.0.0", "--port", "0") as (address, process):
        assert address.startswith("http://0.0.0.0:")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert "whoever reaches it can read every user's history" in said


def test_without_its_library_the_command_says_what_to_install(home: Home) -> None:
    hide = "import sys; sys.modules['uvicorn'] = None; sys.argv = ['kar', *sys.argv[1:]]; from kar.cli import main; main()"
    settings = ROOT / "settings" / "movielens-100k.toml"
    command = [sys.executable, "-c", hide, "browse", "--settings", str(settings), "--home", str(home.root)]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "kar browse needs uvicorn, which is not installed" in ended.stderr
    assert "pip install 'kar[browse]'" in ended.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    with served(home, planted.World(), "--port", "0") as (found, _):
        yield found


@pytest.fixture(scope="module")
def hostile_address(hostile_home: Home) -> Iterator[str]:
    with served(hostile_home, planted.hostile(), "--port", "0") as (found, _):
        yield found


@contextlib.contextmanager
def tab(browser: Any, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A fresh tab, and what it complained of: errors, refused loads, dialogs, requests to elsewhere."""
    context, complaints = browser.new_context(**options), []
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    opened.on("requestfailed", lambda request: complaints.append(request.url))
    opened.on("request", lambda request: None if request.url.startswith("http://127.0.0.1:") else complaints.append(request.url))
    try:
        yield opened, complaints
    finally:
        context.close()


@pytest.mark.integration
@needs_chromium
def test_somebody_can_search_read_and_go_on_with_the_keyboard_alone(browser: Any, address: str) -> None:
    with tab(browser, viewport={"width": 1280, "height": 900}) as (page, complaints):
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "q"
        page.keyboard.type("amelie")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search?q=amelie")
        page.get_by_role("link", name="Amélie on the Night Express (2001)").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/item?id=20")
        assert page.get_by_role("heading", level=1).inner_text() == "Amélie on the Night Express (2001)"
        prompt = page.get_by_text("The prompt", exact=True)
        prompt.focus()
        page.keyboard.press("Enter")
        assert page.get_by_text("You know films well.").is_visible()
        assert page.get_by_role("search").get_by_role("searchbox", name="Search a user or item by id or title").count() == 1
        page.get_by_role("navigation", name="On this page").get_by_role("link", name="Neighbours").click()
        page.get_by_role("table").get_by_role("link", name="Under the Lighthouse (1982)").click()
        page.wait_for_url("**/item?id=80")
        assert complaints == []


@pytest.mark.integration
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_and_words_stand_out_from_their_ground(browser: Any, hostile_address: str, scheme: str) -> None:
    item = urlencode({"id": f"i1 {planted.HOSTILE[1]}"})
    user = urlencode({"id": f"u2 {planted.HOSTILE[2]}"})
    with tab(browser, color_scheme=scheme) as (page, complaints):
        page.goto(f"{hostile_address}/releases")
        release = page.locator("tbody a").first.get_attribute("href")
        for path in ("/", "/search?q=i", f"/item?{item}", f"/user?{user}", "/releases", release):
            page.goto(f"{hostile_address}{path}")
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
            assert page.evaluate(CONTRAST) == [], path
        assert complaints == []


@pytest.mark.integration
@needs_chromium
def test_hostile_titles_run_nothing_and_load_nothing(browser: Any, hostile_address: str) -> None:
    with tab(browser) as (page, complaints):
        for place, word in enumerate(planted.HOSTILE):
            page.goto(f"{hostile_address}/item?{urlencode({'id': f'i{place} {word}'})}")
            assert page.locator("h1").count() == 1
            assert page.locator("script, img, iframe, object, embed").count() == 0
        assert page.evaluate("(() => { try { return eval('1 + 1') } catch (error) { return 'refused' } })()") in ("refused", 2)
        page.evaluate("(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s) })()")
        assert page.evaluate("window.ran") is None
        assert all("Content Security Policy" in said for said in complaints)


@pytest.mark.integration
@needs_chromium
def test_everything_works_with_scripts_switched_off(browser: Any, address: str) -> None:
    with tab(browser, java_script_enabled=False) as (page, complaints):
        page.goto(f"{address}/item?id=20")
        page.get_by_text("Where it comes from").click()
        assert page.get_by_text("saw events until").is_visible()
        page.get_by_label("Search a user or item by id or title").fill("2")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="User 2").click()
        assert page.get_by_role("heading", level=1).inner_text() == "User 2"
        assert complaints == []


CONTRAST = """
(() => {
  const channel = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 };
  const light = rgb => { const [r, g, b] = rgb.match(/[0-9.]+/g).map(Number); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b) };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c } return 'rgb(255,255,255)' };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(e.className + ': ' + walk.currentNode.textContent.slice(0, 30));
  }
  return bad;
})()
"""
