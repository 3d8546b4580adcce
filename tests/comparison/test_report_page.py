"""The page in a real browser, from the disk and without a network: everything in it is seen, and nothing is fetched."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sweep_stores import IRRG, RGB, Reported

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Written into the page by the page itself, once everything in it has loaded.
LOOK = """<script>addEventListener('load', () => {
  const found = {
    images: [...document.images].map(image => [image.naturalWidth, image.clientWidth, image.clientHeight]),
    tables: [...document.querySelectorAll('table')].map(table => [table.rows.length, table.clientHeight]),
    asked: performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 30)),
    width: document.documentElement.scrollWidth,
    missing: document.querySelector('.missing').innerText,
    first: document.querySelector('.missing').getBoundingClientRect().top,
    anchors: [...document.querySelectorAll('nav a')].map(a => !!document.getElementById(a.hash.slice(1))),
    bold: document.querySelectorAll('td b').length,
    links: [...document.querySelectorAll('a')].map(a => a.href).filter(a => !a.includes('#')),
    background: getComputedStyle(document.body).backgroundColor,
  };
  const place = document.createElement('pre');
  place.id = 'found';
  place.textContent = JSON.stringify(found);
  document.body.append(place);
});</script>"""


@pytest.fixture(scope="module")
def seen(reported: Reported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser found."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("page")
    place = folder / "report"
    shutil.copytree(reported.out, place)
    page = place / "index.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</head>", f"{LOOK}</head>"), encoding="utf-8")
    line = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        # Whatever leaves this machine, or asks another part of it, ends at a port where nobody answers.
        *("--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=<-loopback>"),
        *(f"--user-data-dir={folder / 'profile'}", "--window-size=1200,900", "--virtual-time-budget=20000"),
        *("--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert written, done.stderr[-2000:]
    return dict(json.loads(html.unescape(written.group(1))))


def test_every_picture_is_drawn(seen: dict[str, Any], reported: Reported) -> None:
    assert len(seen["images"]) == len([path for path in reported.files if path.suffix == ".png"])
    assert all(natural > 300 and width > 100 and height > 100 for natural, width, height in seen["images"])


def test_every_table_is_there_and_the_page_is_no_wider_than_the_window(seen: dict[str, Any]) -> None:
    # In one direction three tables in four parts and the differences, in the other two tables without classes.
    assert len(seen["tables"]) == 3 * 4 + 1 + 2 * 2
    assert all(rows >= 2 and height > 20 for rows, height in seen["tables"])
    assert seen["bold"] > 20
    assert seen["width"] <= 1200


def test_nothing_is_fetched(seen: dict[str, Any], reported: Reported) -> None:
    assert [name for name in seen["asked"] if not name.startswith(("file:", "data:"))] == []
    page = reported.text("index.html")
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page) == []
    assert "<script" not in page
    assert "@import" not in page


def test_what_is_missing_is_seen_first(seen: dict[str, Any]) -> None:
    assert seen["first"] < 400
    assert f"{IRRG}/seed1/mucss: FloatingPointError: 100 % of gan/critic_1 & more is nan; see <log>." in seen["missing"]
    assert f"{RGB}/seed0/drdg" in seen["missing"]


def test_links_lead_somewhere(seen: dict[str, Any], reported: Reported) -> None:
    assert seen["anchors"] == [True, True]
    assert len(seen["links"]) == 3 * 3 + 2 + 2 * 3
    assert all(Path(link.removeprefix("file://")).is_file() for link in seen["links"])
    assert seen["background"] == "rgb(255, 255, 255)"
