"""The page in a real browser: nothing is wider than the window, whatever is unfolded. Needs Chromium."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.page import fake_home
from tests.page.fake_home import Plan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

MEASURE = """
<body><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const doc = frame.contentDocument;
  doc.querySelectorAll("details").forEach(d => { d.open = true; });
  document.title = doc.documentElement.scrollWidth + " of " + frame.clientWidth;
};
</script></body>
"""


@pytest.mark.integration
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_never_scrolls_sideways(tmp_path: Path, width: int) -> None:
    long_words = {"knowledge": lambda rows: [row | {"text": "Unbreakable" * 40, "model": "m" * 120} for row in rows]}
    page = fake_home.page(tmp_path / "home", Plan(edit=long_words))
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text("<!DOCTYPE html><title>not measured</title>" + MEASURE.replace("<body>", "<body>" + frame))
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom", outer.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found is not None, dom[:200]
    assert int(found.group(1)) <= int(found.group(2)) == width


@pytest.mark.integration
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
def test_arrow_keys_walk_the_map_and_the_text_of_the_item_stands_below_it(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = tmp_path / "page.html"
    path.write_text(fake_home.page(tmp_path / "home", Plan(users=30, items=40)))
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(path.as_uri())
        assert page.locator("#map .tip:visible").count() == 0
        page.locator("#map input").first.focus()
        seen = []
        for _ in range(3):
            page.keyboard.press("ArrowRight")
            (tip,) = page.locator("#map .tip:visible").all_inner_texts()
            seen.append(tip)
        browser.close()
    titles = [text.split(")")[0] for text in seen]
    assert len(set(titles)) == 3
    assert all("moves slowly and looks closely" in text for text in seen)
