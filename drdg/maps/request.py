"""Station 5, maps: what a person asks of ``launch/predict.py``, checked as far as that needs no network."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drdg.maps.inputs import Reading, find_inputs
from drdg.maps.ours import SIDECAR, is_ours, pictures_of, sources_of

MOSAICS = (".vrt", ".tif")
PRODUCTS = ("", "probabilities", "confidence", "translated", "dsm")
"""Last parts of the names of what can be written beside an input, "" for the map itself; as in products.py."""


def product_path(out: Path, stem: str, name: str) -> Path:
    """Where the product ``name`` of the raster ``stem`` is written."""
    return out / f"{stem}{'_' * bool(name)}{name}.tif"


@dataclass(frozen=True)
class Request:
    """One call."""

    model: str
    """A segmentor's file, a folder with one, or ``models:/name@alias``."""
    inputs: tuple[str, ...]
    output: Path
    reading: Reading = Reading()  # noqa: RUF009 -- it is frozen
    gsd_m: float | None = None
    """Metres per pixel that the network is to see; None for what its file says, 0 for each raster's own."""
    probabilities: bool = False
    confidence: bool = False
    flips: bool = False
    scales: tuple[float, ...] = (1.0,)
    generator: Path | None = None
    generator_gsd_m: float | None = None
    """Metres per pixel that the generator is to see; None or 0 for each raster's own."""
    dsm: Path | None = None
    """A surface model, or a folder with one of each input's name."""
    mosaic: Path | None = None
    polygons: bool = False
    minimum_m2: float = 0.0
    simplify_m: float = 0.0
    preview: bool = False
    viewer: bool = False

    def files(self) -> list[Path]:
        """The inputs. Raises ``ValueError`` when they cannot be told apart by name, or an output would replace one, or
        what is asked for contradicts itself.
        """
        self._refuse_contradictions()
        files = find_inputs(self.inputs)
        stems: dict[str, Path] = {}
        for file in files:
            other = stems.setdefault(file.stem.casefold(), file)
            if other is not file:
                raise ValueError(
                    f"{file}: has the same name as {other}, and so would its map; write their maps to two folders"
                )
        outputs = self._outputs(files)
        self._refuse_equal_names(files, outputs)
        self._refuse_to_replace(files, outputs)
        return files

    def products(self) -> tuple[str, ...]:
        """The names of the products that may be written; a generator may turn out to predict no heights."""
        wanted = (True, self.probabilities, self.confidence, self.generator is not None, self.generator is not None)
        return tuple(name for name, is_wanted in zip(PRODUCTS, wanted, strict=True) if is_wanted)

    def subjects(self, files: Sequence[Path]) -> list[tuple[Path, Path]]:
        """The class maps that polygons, previews and pages are made of, the mosaic if there is one, else all, and of
        each the path whose suffix gives way to theirs.
        """
        if self.mosaic is not None:
            return [(self.mosaic, self.output / self.mosaic.name)]
        maps = [product_path(self.output, file.stem, "") for file in files]
        return list(zip(maps, maps, strict=True))

    def _outputs(self, files: Sequence[Path]) -> list[tuple[Path, str]]:
        """All files and folders that may be written, and what each is, for people."""
        found = [
            (product_path(self.output, file.stem, name), f"the {name or 'class map'} of {file}")
            for file in files
            for name in self.products()
        ]
        if self.mosaic is not None:
            found.append((self.mosaic, "the mosaic"))
        wanted = {".gpkg": self.polygons, ".png": self.preview, ".html": self.viewer}
        for _, beside in self.subjects(files):
            found += [(beside.with_suffix(suffix), f"a {suffix} file") for suffix in wanted if wanted[suffix]]
            if self.viewer:
                found.append((pictures_of(beside.with_suffix(".html")), "a page's folder of pictures"))
        return found

    def _refuse_equal_names(self, files: Sequence[Path], outputs: Sequence[tuple[Path, str]]) -> None:
        """Names that differ only in case are equal, as on many disks."""
        own = {_folded(file) for file in files}
        for file in files:
            if _folded(product_path(self.output, file.stem, "")) in own:
                raise ValueError(f"{file}: its map would replace an input; take another folder as --output")
        taken: dict[str, str] = {}
        for path, what in outputs:
            if path == self.mosaic and _folded(path) in own | taken.keys():
                raise ValueError(f"--mosaic {path}: is an input or the map of one; give it another name")
            if _folded(path) in own:
                raise ValueError(f"{path}: is an input, and {what} would replace it; take another folder as --output")
            if (other := taken.get(_folded(path))) is not None:
                raise ValueError(
                    f"{path}: would be {other} and {what} too; rename one input, or write their maps to two folders"
                )
            taken[_folded(path)] = what

    def _refuse_to_replace(self, files: Sequence[Path], outputs: Sequence[tuple[Path, str]]) -> None:
        models = (self.dsm_of(file) for file in files)
        rasters = dict.fromkeys([*files, *(model for model in models if model is not None)])
        read = {_folded(source): raster for raster in rasters for source in sources_of(raster)}
        for path, what in outputs:
            if (source_of := read.get(_folded(path))) is not None:
                raise ValueError(
                    f"{path}: {source_of} is made of it, and {what} would replace it; take another folder as --output"
                )
            if path.exists() and not is_ours(path):
                raise ValueError(
                    f"{path}: is there already and not of this command's making, and {what} would replace it; move it, "
                    "or take another name or folder"
                )
        stems = {product_path(self.output, file.stem, name): file.stem for file in files for name in self.products()}
        for path, _ in outputs:
            sidecar = path.with_name(path.name + SIDECAR)
            is_map = path in stems or path == self.mosaic
            if is_map and sidecar.exists() and not path.exists() and not _is_begun(path, stems.get(path, path.stem)):
                raise ValueError(f"{sidecar}: is there already without a raster, and would be replaced; move it")

    def dsm_of(self, file: Path) -> Path | None:
        """The surface model of an input. Raises ``ValueError`` when the folder has none of its name."""
        if self.dsm is None or self.dsm.is_file():
            return self.dsm
        if not self.dsm.is_dir():
            raise ValueError(f"--dsm {self.dsm}: there is no such file or folder; correct it")
        found = sorted(other for other in self.dsm.iterdir() if other.stem == file.stem and other.is_file())
        found = [other for other in found if other.suffix != ".xml"]
        if not found:
            raise ValueError(f"{self.dsm}: holds no DSM of the name {file.stem}; add it, or leave out --dsm")
        return found[0]

    def _refuse_contradictions(self) -> None:
        if self.dsm is not None and self.generator is None:
            raise ValueError(
                "--dsm: gives metres to the heights that a generator predicts; add --generator, or leave it out"
            )
        if self.mosaic is not None and self.mosaic.suffix.lower() not in MOSAICS:
            raise ValueError(f"--mosaic {self.mosaic}: is no name of a mosaic; let it end with .vrt or .tif")
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"--output {self.output}: is a file; name a folder")


def _folded(path: Path) -> str:
    return str(path.resolve()).casefold()


def _is_begun(path: Path, stem: str) -> bool:
    """Whether a killed run's pieces of ``stem`` are there: it may have got as far as the sidecar."""
    return any(path.parent.glob(f".{glob.escape(stem)}-*"))
