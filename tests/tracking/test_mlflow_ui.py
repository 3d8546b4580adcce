"""MLflow's own pages, in a real browser, show what we log: the runs, a metric's chart and a panel's picture."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import HANGS_S, running_server

from drdg.tracking import Tracking

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--window-size=1600,1200",
)
# Where Debian and Ubuntu put them.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"


def what_is_missing() -> str:
    """Why no browser can be opened here; empty if one can."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed; pip install -e '.[dev]'"
    if not any(map(shutil.which, BROWSERS)) or not shutil.which(DRIVER):
        return "no Chromium with its driver ('make packages' as root installs them on Debian and Ubuntu)"
    return ""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    if reason := what_is_missing():
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    # Its own path, as selenium would look for a driver on the network.
    opened = webdriver.Chrome(options, Service(shutil.which(DRIVER), env=os.environ | {"HOME": str(tmp_path)}))
    opened.set_page_load_timeout(HANGS_S)
    try:
        yield opened
    finally:
        opened.quit()


def write_runs(uri: str, folder: Path) -> tuple[str, str]:
    """A sweep, a cell and a stage with a curve and a picture; the experiment and the stage's run."""
    import matplotlib.image

    tracking = Tracking(uri, "towns", folder)
    sweep = tracking.place("towns-ablation", None, {"drdg.digest": "s", "drdg.kind": "sweep"}, {})
    words = {"drdg.row": "drdg", "drdg.seed": 0}
    cell = tracking.place("a_to_b/seed0/drdg", sweep, {**words, "drdg.digest": "c", "drdg.kind": "cell"}, {})
    picture = folder / "panel.png"
    matplotlib.image.imsave(picture, np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    with tracking.stage("drdg/gan", cell, {**words, "drdg.digest": "g", "drdg.stage": "gan"}, {}) as stage:
        for step in range(20):
            stage.log({"gan/critic/loss": 1 / (step + 1)}, step)
        stage.artifact(picture, "panels")
    tracking.settle(cell, "FINISHED", metrics={"target/miou_percent": 41.5})
    tracking.settle(sweep, "FINISHED")
    return tracking.store.experiment_id, stage.run_id


@pytest.mark.timeout(900)
def test_runs_a_chart_and_a_picture_are_on_mlflows_pages(browser: Any, empty_store: Path, tmp_path: Path) -> None:
    from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def seen(what: str, condition: Any) -> Any:
        waiting = WebDriverWait(browser, HANGS_S, 0.2, ignored_exceptions=[StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            browser.save_screenshot(str(tmp_path / "page.png"))
            page = browser.find_element(By.TAG_NAME, "body").text
            pytest.fail(f"{what} never came on {browser.current_url}:\n{page}\n{browser.get_log('browser')[-5:]}")

    def elements(selector: str) -> list[Any]:
        return [found for found in browser.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def with_text(selector: str, text: str) -> list[Any]:
        return [found for found in elements(selector) if found.text.strip() == text]

    def loaded_picture() -> bool:
        return bool(
            browser.execute_script(
                "return [...document.images].some(i => i.complete && i.naturalWidth == 64 && i.naturalHeight == 48)"
            )
        )

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with running_server(tmp_path) as uri:
        experiment, run_id = write_runs(uri, tmp_path)

        browser.get(f"{uri}/#/experiments/{experiment}/runs")
        seen("the sweep's run", lambda: with_text("a", "towns-ablation"))

        browser.get(f"{uri}/#/experiments/{experiment}/runs/{run_id}/model-metrics")
        seen("the metric's name", lambda: "gan/critic/loss" in browser.find_element(By.TAG_NAME, "body").text)
        seen("the metric's curve", lambda: elements("svg .scatterlayer path.js-line"))

        browser.get(f"{uri}/#/experiments/{experiment}/runs/{run_id}/artifacts/panels/panel.png")
        seen("the panel", loaded_picture)
