"""Station 5, maps: what a person asks of ``launch/predict.py``, checked as far as that needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drdg.maps.inputs import Reading, find_inputs

MOSAICS = (".vrt", ".tif")


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
        own = {file.resolve() for file in files}
        for file in files:
            if (self.output / f"{file.stem}.tif").resolve() in own:
                raise ValueError(f"{file}: its map would replace an input; take another folder as --output")
        if self.mosaic is not None and self.mosaic.resolve() in own | {
            (self.output / f"{s}.tif").resolve() for s in stems
        }:
            raise ValueError(f"--mosaic {self.mosaic}: is an input or the map of one; give it another name")
        return files

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
