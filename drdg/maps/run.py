"""Station 5, maps: from a request to finished maps, on one rank or on many."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from drdg.config import Config
from drdg.datasets.described import map_palette
from drdg.distributed.group import Group, process_group
from drdg.distributed.topology import discover
from drdg.files import xxh128
from drdg.inference.sliding import check_window
from drdg.maps.assembly import lay_out, write_image, write_mosaic
from drdg.maps.inputs import Scene, height_range
from drdg.maps.mosaic import Task, layout_of, map_scene, paths_of
from drdg.maps.networks import Segmentation, Translation
from drdg.maps.ours import plan_of
from drdg.maps.products import RGB, Product, class_map, confidence, heights, probabilities, translated
from drdg.maps.request import PRODUCTS, Request, product_path
from drdg.models.segmentor import load_segmentor, read_learnt
from drdg.tracking import fetch_model
from drdg.training.weights import load_translator, translator_config

REGISTRY = "models:/"
WEIGHTS = "*.safetensors"
SEGMENTOR = "segmentor.safetensors"


def predict(config: Config, request: Request) -> list[Path]:
    """Map every input of ``request`` and return the class maps; all ranks that a launcher started call this.

    ``config``: its ``evaluation`` cuts the windows, its ``distributed`` says where is computed, its ``tracking`` where
    registered models are. What is finished is not done again, and what was interrupted continues. Raises ``ValueError``
    with one sentence for whatever the request or a file has wrong, before anything is computed where it can be seen.
    """
    files = request.files()
    topology = discover()
    for file in files:
        _check(request, file)
    if request.polygons:
        from drdg.maps.vectors import require_libraries

        require_libraries()
    if request.mosaic is not None:
        lay_out(files)  # maps lie as their inputs do
    with process_group(config.distributed, topology) as group, model_file(request.model, config) as model:
        segmentation, palette = _segmentation(config, request, model, group)
        named = segmentation.products[0]
        # Loaded here, so that what is wrong with it is said before anything is mapped.
        translation = None if request.generator is None else _translation(config, request, request.generator, group)
        for file in files:
            _check_size(request, file, [task for task in (segmentation, translation) if task is not None])
        if translation is not None and group.is_first:
            _say_unused_dsm(request, translation)
        for file in files:
            made = map_scene(file, request.reading, segmentation, request.output, group)
            if translation is not None:
                task = _with_heights(translation, request, file)
                made = map_scene(file, request.reading, task, request.output, group) or made
            if group.is_first and not made:
                print(f"{file.name}: is mapped already", file=sys.stderr, flush=True)
        maps = [paths_of(request.output, file.stem, [named])[named] for file in files]
        if group.is_first:
            made_now = {product.name for product in segmentation.products}
            if translation is not None:
                made_now |= {"translated"} | ({"dsm"} if _has_depth(translation) else set())
            _say_older(request, files, made_now)
            _write_more(request, files, maps, named, palette, made_now)
    return maps


def _check(request: Request, file: Path) -> None:
    """Open an input and its surface model, so that what is wrong with the last is said before the first is mapped."""
    with Scene(file, request.reading) as scene:
        if (dsm := request.dsm_of(file)) is not None:
            height_range(dsm, scene)


def _check_size(request: Request, file: Path, tasks: list[Task]) -> None:
    """Refuse before the first is mapped what does not fit into memory, or has no GSD to be resampled from."""
    with Scene(file, request.reading) as scene:
        for task in tasks:
            layout_of(scene, task)


@contextmanager
def model_file(model: str, config: Config) -> Iterator[Path]:
    """The file with a segmentor's weights, of a registered model as a copy that is there within the block."""
    if model.startswith(REGISTRY):
        with tempfile.TemporaryDirectory(prefix="drdg-model-") as folder:
            yield find_weights(fetch_model(model, Path(folder), store=config.tracking.uri), model)
    elif Path(model).is_dir():
        yield find_weights(Path(model), model)
    else:
        yield Path(model)


def find_weights(folder: Path, model: str) -> Path:
    """The only file of weights below ``folder``, or the one that is called as training calls it."""
    found = sorted(folder.rglob(WEIGHTS))
    named = [path for path in found if path.name == SEGMENTOR]
    if len(named or found) == 1:
        return (named or found)[0]
    what = f"{len(found)} files {WEIGHTS} are" if found else f"no file {WEIGHTS} is"
    raise ValueError(f"--model {model}: {what} there, so nobody knows which to take; name the file itself")


def _segmentation(config: Config, request: Request, path: Path, group: Group) -> tuple[Task, tuple[RGB, ...]]:
    segmentor, classes = load_segmentor(path)
    learnt = read_learnt(path)
    palette = learnt.palette or map_palette(list(classes))
    check_window(segmentor, config.evaluation)
    network = Segmentation(segmentor.to(group.device), len(classes), flips=request.flips, scales=request.scales)
    products: list[Product] = [class_map(classes, palette)]
    products += [probabilities(classes)] * request.probabilities
    products += [confidence()] * request.confidence
    looks = {"flips": request.flips, "scales": list(request.scales)}
    identity = {"segmentor": xxh128(path), **looks}
    gsd_m = learnt.gsd_m if request.gsd_m is None else request.gsd_m
    return Task("map", network, tuple(products), config.evaluation, gsd_m or None, identity), palette


def _translation(config: Config, request: Request, path: Path, group: Group) -> Task:
    trained = translator_config(path)
    network = Translation(load_translator(path, trained, group.device), trained, group.device)
    window = config.evaluation.model_copy(update={"window": trained.source.tile})
    identity = {"translator": xxh128(path)}
    return Task("translate", network, (translated(),), window, request.generator_gsd_m or None, identity)


def _with_heights(task: Task, request: Request, file: Path) -> Task:
    """The translation of one input with the heights that go with it, if the generator predicts any."""
    network = task.network
    if not _has_depth(task):
        return task
    assert isinstance(network, Translation), network
    low, high, in_metres = heights_of(network.trained, request, file)
    products = (*task.products, heights(low, high, in_metres=in_metres))
    return replace(task, products=products, identity={**task.identity, "heights": [low, high]})


def _has_depth(translation: Task) -> bool:
    assert isinstance(translation.network, Translation), translation.network
    return translation.network.has_depth


def heights_of(trained: Config, request: Request, file: Path) -> tuple[float, float, bool]:
    """The heights that a generator's 0 and 1 are, and whether they are metres, as far as anybody knows.

    By the rule ``dataset`` they are the lowest and highest of the data set that it was trained on, which no surface
    model of another place says; so they stay 0 to 1.
    """
    dsm = request.dsm_of(file)
    if trained.dsm.rule == "height_above_ground":
        low, high = 0.0, trained.dsm.ceiling_m
    elif trained.dsm.rule == "top" and dsm is not None:
        with Scene(file, request.reading) as scene:
            low, high = height_range(dsm, scene)
    else:
        return 0.0, 1.0, False
    # Trained on heights in [-1, 1], of which a sigmoid reaches the upper half.
    return ((low + high) / 2 if trained.dsm.range == "symmetric" else low), high, True


def _say_unused_dsm(request: Request, task: Task) -> None:
    assert isinstance(task.network, Translation), task.network
    rule = task.network.trained.dsm.rule
    if request.dsm is not None and _has_depth(task) and rule != "top":
        heights_are = "0 to 1" if rule == "dataset" else "metres above the ground"
        print(f"--dsm {request.dsm}: dsm.rule={rule} makes no use of it, heights are {heights_are}", file=sys.stderr)


def _say_older(request: Request, files: list[Path], made_now: set[str]) -> None:
    """Name in one line what an earlier run with other settings left beside this one's products."""
    older = [
        path.name
        for file in files
        for name in PRODUCTS
        if name not in made_now and plan_of(path := product_path(request.output, file.stem, name)) is not None
    ]
    if older:
        more = f" and {len(older) - 1} more" if len(older) > 1 else ""
        print(
            f"{request.output}: {older[0]}{more} of an earlier run with other settings stay as they are",
            file=sys.stderr,
            flush=True,
        )


def _write_more(
    request: Request,
    files: list[Path],
    maps: list[Path],
    named: Product,
    palette: tuple[RGB, ...],
    made_now: set[str],
) -> None:
    """The mosaic, and polygons, preview and viewer: of the mosaic if there is one, else of each map."""
    images = [files] if request.mosaic is not None else [[file] for file in files]
    if request.mosaic is not None:
        write_mosaic(request.mosaic, maps, named)
    for (raster, beside), shown_images in zip(request.subjects(files), images, strict=True):
        title = beside.stem
        if request.polygons:
            from drdg.maps.vectors import write_polygons

            vectors = beside.with_suffix(".gpkg")
            knobs = {"minimum_m2": request.minimum_m2, "simplify_m": request.simplify_m}
            _say(write_polygons(raster, vectors, named.classes, **knobs))
        if request.preview:
            from drdg.maps.preview import write_preview

            _say(write_preview(raster, beside.with_suffix(".png"), named.classes, palette, title=title))
        if request.viewer:
            from drdg.maps.viewer import write_viewer

            page = beside.with_suffix(".html")
            with layers(request, raster, shown_images, made_now) as shown:
                _say(write_viewer(shown, page, named.classes, palette, title=title))


@contextmanager
def layers(request: Request, raster: Path, images: list[Path], made_now: set[str]) -> Iterator[dict[str, Path]]:
    """What there is to look at, by its name, from the lowest to the highest; the image is there within the block.

    ``made_now``: names of this run's products, as others that lie there may be of another model.
    """
    with tempfile.TemporaryDirectory(prefix=".image-", dir=request.output) as folder:
        shown = {"image": write_image(Path(folder) / "image.vrt", images, request.reading)}
        if raster != request.mosaic:
            for name in ("translated", "dsm", "confidence"):
                if name in made_now:
                    shown[name] = product_path(request.output, raster.stem, name)
        yield {**shown, "map": raster}


def _say(path: Path) -> None:
    print(f"written: {path}", file=sys.stderr, flush=True)
