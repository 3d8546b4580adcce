"""The page around a map, as a real browser shows it from the disk."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from small_maps import AT_UTM, CLASSES, PALETTE, save_map, speckled

from drdg.maps.pyramid import Grid
from drdg.maps.viewer import write_viewer

HEIGHT, WIDTH = 700, 1100
QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1000,800"
)


def quarters() -> np.ndarray:
    """Class ids: 0 and 1 above, 2 and 3 below; nothing in the lower right corner."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ids[:, WIDTH // 2 :] += 1
    ids[HEIGHT // 2 :] += 2
    ids[-100:, -100:] = 255
    return ids


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page of an orange image on a grid of its own, the map, and a confidence that rises to the right."""
    root = tmp_path_factory.mktemp("view")
    image = np.empty((3, HEIGHT // 2, WIDTH // 2), dtype=np.uint8)
    image[:] = np.array([250, 120, 10], dtype=np.uint8)[:, None, None]
    coarse = AT_UTM @ Affine.scale(2)
    confidence = np.broadcast_to(np.linspace(0, 254, WIDTH).astype(np.uint8), (HEIGHT, WIDTH)).copy()
    layers = {
        "image": save_map(root / "image.tif", image, transform=coarse, nodata=None),
        "map": save_map(root / "map.tif", quarters()),
        "confidence": save_map(root / "confidence.tif", confidence),
    }
    with rasterio.open(layers["confidence"], "r+") as file:
        file.scales = [1 / 254]
    return write_viewer(layers, root / "out" / "town.html", CLASSES, PALETTE, title="Town </title><b>")


def test_pictures_show_the_layers_and_where_nothing_is_there_are_none(page):
    tiles = page.with_name("town_tiles")
    assert sorted(path.name for path in page.parent.iterdir()) == ["town.html", "town_tiles"]
    with Image.open(tiles / "1/2/0_0.png") as picture:
        assert picture.size == (512, 512)
        shown = np.asarray(picture.convert("RGBA"))
    assert tuple(shown[0, 0]) == (*PALETTE[0], 255)
    assert tuple(shown[400, 0]) == (*PALETTE[2], 255)
    with Image.open(tiles / "1/2/1_2.png") as picture:
        shown = np.asarray(picture.convert("RGBA"))
    assert shown.shape == (188, 76, 4)
    assert shown[50, 50, 3] == 255
    assert shown[150, 50, 3] == 0, "no data is clear"
    with Image.open(tiles / "0/2/0_0.jpg") as picture:
        np.testing.assert_allclose(np.asarray(picture)[100, 100], (250, 120, 10), atol=4)


def test_numbers_and_sizes_of_pictures_are_bounded():
    from rasterio.crs import CRS

    for height, width in ((60_000, 60_000), (1, 1), (512, 513), (3, 200_000)):
        levels = Grid(CRS.from_epsg(32632), AT_UTM, height, width).levels()
        assert all(level.rows * level.cols <= 400 for level in levels)
        assert (levels[0].rows, levels[0].cols) == (1, 1)
        assert [level.factor for level in levels] == [levels[-1].factor * 2**n for n in range(len(levels))][::-1]
    assert Grid(None, AT_UTM, 60_000, 60_000).levels()[-1].factor == 8


def test_what_cannot_be_shown_is_refused_in_one_sentence(tmp_path):
    path = save_map(tmp_path / "map.tif", speckled(40, 40))
    bare = {"crs": None, "transform": Affine.identity()}
    other = save_map(tmp_path / "other.tif", np.zeros((3, 20, 20), dtype=np.uint8), **bare)
    for layers, said in (
        ({"image": other}, "a page needs the layer 'map', but there is image"),
        ({"image": other, "map": path}, "other.tif: is 20 x 20 pixels on another grid than the map"),
        ({"map": tmp_path / "none.tif"}, "none.tif: cannot be read as a raster"),
    ):
        with pytest.raises(ValueError, match=said):
            write_viewer(layers, tmp_path / "page.html", CLASSES, PALETTE, title="")
        assert not (tmp_path / "page.html").exists()
    (tmp_path / "page_tiles").mkdir()
    (tmp_path / "page_tiles" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="page_tiles: is there already and not of this page's making"):
        write_viewer({"map": path}, tmp_path / "page.html", CLASSES, PALETTE, title="")
    assert (tmp_path / "page_tiles" / "thesis.txt").exists()


def test_a_page_is_made_anew_in_its_place(tmp_path):
    first = save_map(tmp_path / "first.tif", speckled(600, 600))
    second = save_map(tmp_path / "second.tif", speckled(50, 50))
    for path in (first, second):
        write_viewer({"map": path}, tmp_path / "page.html", CLASSES, PALETTE, title="")
    assert [path.name for path in sorted((tmp_path / "page_tiles").rglob("*.png"))] == ["0_0.png"]
    assert not list(tmp_path.glob(".*"))


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium without a window, with nothing of anybody's profile, that keeps a record of what it asks for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no Chromium with its driver here; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*QUIET.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    from selenium.webdriver.chrome.service import Service

    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def shown(browser, page):
    """The page, opened, with all its pictures there."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(page.as_uri())
    settle(browser)
    return browser


def settle(browser):
    """Wait until what is to be seen has been drawn and its pictures are there."""
    from selenium.webdriver.support.ui import WebDriverWait

    # Two frames after the last picture, as one is asked for before its level's pictures take the place of others.
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )
    ready = "return document.images.length > 0 && [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    WebDriverWait(browser, 120).until(lambda _: browser.execute_script(ready))
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def look(browser) -> np.ndarray:
    """What is seen, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))


def seen_at(browser, col: float, row: float) -> tuple[int, ...]:
    """The colour on the screen at a pixel of the map."""
    x, y = browser.execute_script(
        "const box = stage.getBoundingClientRect();"
        "return [box.left + box.width / 2 + (arguments[0] - view.x) * view.zoom,"
        "        box.top + box.height / 2 + (arguments[1] - view.y) * view.zoom]",
        col,
        row,
    )
    return tuple(int(value) for value in look(browser)[int(y), int(x)])


def opacity(browser, name: str, percent: int) -> None:
    browser.execute_script(
        "const slider = document.querySelector(`[aria-label='Opacity of ${arguments[0]}']`);"
        "slider.value = arguments[1]; slider.dispatchEvent(new Event('input'))",
        name,
        percent,
    )
    settle(browser)


def press(browser, *keys: str) -> None:
    from selenium.webdriver.common.by import By

    for key in keys:
        browser.find_element(By.TAG_NAME, "body").send_keys(key)
    settle(browser)


def view(browser) -> tuple[float, float, float]:
    x, y, zoom = browser.execute_script("return [view.x, view.y, view.zoom]")
    return x, y, zoom


def test_all_of_the_map_is_shown_at_first_with_what_explains_it(shown):
    sizes = shown.execute_script("return [...document.images].map(picture => picture.naturalWidth)")
    assert len(sizes) >= 2
    assert all(sizes)
    text = shown.execute_script("return document.body.innerText")
    for said in ("Town </title><b>", "paved road", "building", "confidence\n0\n1\n", "50 m"):
        assert said in text, said
    assert shown.title == "Town </title><b>"
    opacity(shown, "map", 100)
    for number, (col, row) in enumerate(((200, 100), (600, 200), (200, 600), (900, 600))):
        assert seen_at(shown, col, row) == PALETTE[number]
    np.testing.assert_allclose(
        seen_at(shown, WIDTH - 50, HEIGHT - 50), (250, 120, 10), atol=6
    )  # the image, as no data is clear


def test_opacity_lets_the_image_through(shown):
    np.testing.assert_allclose(
        seen_at(shown, 200, 100), 0.6 * np.array(PALETTE[0]) + 0.4 * np.array([250, 120, 10]), atol=6
    )
    opacity(shown, "map", 0)
    np.testing.assert_allclose(seen_at(shown, 200, 100), (250, 120, 10), atol=6)
    shown.execute_script("document.querySelector('[type=checkbox]').click()")  # the highest layer, the confidence
    settle(shown)
    low, high = np.array(seen_at(shown, 20, 650)), np.array(seen_at(shown, 1080, 650))
    assert high.sum() > low.sum() + 150


def test_keys_wheel_and_mouse_move_what_is_shown(shown):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    start, whole = view(shown), look(shown)
    press(shown, "+", "+", Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    near = view(shown)
    assert near[2] == pytest.approx(4 * start[2])
    assert (near[0], near[1]) > (start[0], start[1])
    assert (look(shown) != whole).any(-1).mean() > 0.3
    keys = shown.execute_script("return [...document.images].map(picture => picture.src.split('town_tiles/')[1])")
    assert all(key.split("/")[1] == "2" for key in keys), "the finer level"
    stage = shown.find_element(By.ID, "stage")
    ActionChains(shown).drag_and_drop_by_offset(stage, -80, 40).perform()
    settle(shown)
    dragged = view(shown)
    assert dragged[0] == pytest.approx(near[0] + 80 / near[2], abs=1)
    assert dragged[1] == pytest.approx(near[1] - 40 / near[2], abs=1)
    shown.execute_script(
        "stage.dispatchEvent(new WheelEvent('wheel', {deltaY: 300, clientX: 500, clientY: 400, cancelable: true}))"
    )
    settle(shown)
    assert view(shown)[2] < dragged[2]
    press(shown, "0")
    assert view(shown) == pytest.approx(start)
    assert (np.abs(look(shown).astype(int) - whole) > 8).any(-1).mean() < 0.01


def test_fingers_drag_and_pinch(shown):
    start = view(shown)

    def touch(kind, *places):
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        shown.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    shown.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    touch("touchStart", (500, 400))
    touch("touchMove", (450, 380))
    touch("touchMove", (400, 360))
    touch("touchEnd")
    settle(shown)
    moved = view(shown)
    assert moved[0] > start[0]
    assert moved[1] > start[1]
    assert moved[2] == start[2]
    touch("touchStart", (450, 400), (550, 400))
    touch("touchMove", (400, 400), (600, 400))
    touch("touchMove", (350, 400), (650, 400))
    touch("touchEnd")
    settle(shown)
    shown.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert view(shown)[2] == pytest.approx(3 * start[2], rel=0.05)


def test_the_place_under_the_pointer_is_said_in_the_maps_coordinates(shown):
    shown.execute_script(
        "const box = stage.getBoundingClientRect();"
        "stage.dispatchEvent(new PointerEvent('pointermove', {pointerId: 1,"
        " clientX: box.left + box.width / 2, clientY: box.top + box.height / 2}))"
    )
    said = shown.execute_script("return document.getElementById('place').textContent")
    x, y, crs = said.replace(",", "").split()
    assert crs == "EPSG:32632"
    assert (float(x), float(y)) == (pytest.approx(5e5 + WIDTH / 4, abs=1), pytest.approx(5e6 - HEIGHT / 4, abs=1))


def test_nothing_is_asked_of_anybody_but_the_disk(shown, page):
    press(shown, "+", "+", "-", "0")
    asked = []
    for entry in shown.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            asked.append(event["params"]["request"]["url"])
    ours = [url for url in asked if not url.startswith(("chrome://", "data:", "about:"))]
    assert page.as_uri() in ours
    assert len(ours) > 4
    assert all(url.startswith(page.parent.as_uri()) for url in ours), ours
    complaints = [line["message"] for line in shown.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    assert not complaints
    # What a page may not do at all, nobody can make it do by a class's name or a later change.
    blocked = shown.execute_async_script(
        "const done = arguments[0]; document.addEventListener('securitypolicyviolation', e => done(e.blockedURI));"
        "fetch('http://127.0.0.1:9/').catch(() => {}); setTimeout(() => done(''), 30000)"
    )
    assert blocked.startswith("http://127.0.0.1:9")
    shown.get_log("browser")  # which that went into
