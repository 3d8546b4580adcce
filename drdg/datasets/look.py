"""Station 1, archives: what makes one generated domain look unlike the other, as one set of constants per domain.

The domain gap is all here: season and materials, sun and sky, terrain, sensor. The towns' plans (``planning.py``) are
drawn alike for both domains, so that matching the distributions of images, which is all an unpaired translator can do,
also matches the classes. Reflectances are rough values of the materials (a red tile, dry grass) in red, green, blue and
near-infrared; the sensors' constants are chosen, not measured, so that a segmentor of one domain fails on the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Spectrum = tuple[float, float, float, float]
"""Red, green, blue, near-infrared."""
BANDS = ("red", "green", "blue", "infrared")
RED, GREEN, BLUE, INFRARED = range(4)


@dataclass(frozen=True)
class Palette:
    """Spectra an object's covering is drawn from, with how common each is."""

    spectra: tuple[tuple[float, Spectrum], ...]

    def pick(self, at: float) -> Spectrum:
        """The spectrum at a place in [0, 1) of the cumulated shares."""
        total = sum(weight for weight, _ in self.spectra)
        for weight, spectrum in self.spectra:
            at -= weight / total
            if at < 0:
                return spectrum
        return self.spectra[-1][1]


@dataclass(frozen=True)
class Terrain:
    """Bare ground: an offset, hills of one wavelength along two axes, and undulation within a plot. All in metres."""

    offset_m: float
    hills_m: float
    wavelength_m: float
    undulation_m: float

    def height(self, x: NDArray, y: NDArray) -> NDArray:
        """Ground height at places in the city (metres, y down)."""
        k = 2 * np.pi / self.wavelength_m
        hills = np.sin(k * x + 0.4) + np.sin(k * y * 0.8 + 1.1)
        bumps = np.sin(x / 3.1 + 0.7) * np.sin(y / 4.3 + 0.2)
        return self.offset_m + 0.5 * self.hills_m * hills + self.undulation_m * bumps


@dataclass(frozen=True)
class Sun:
    """Where the sun is and how much of a level surface's light comes from the sky instead, per band."""

    azimuth_deg: float
    """Clockwise from north (up in the orthophoto)."""
    elevation_deg: float
    sky: Spectrum
    """Share of the sky's light in all light that falls on level ground: what is left in shadow."""


@dataclass(frozen=True)
class Sensor:
    """From the light that leaves the ground to 8-bit numbers.

    ``number = 255 * (offset + mixing @ (haze + (1 - haze) * light) ** gamma)``, after a blur of ``blur_px`` and before
    noise. With equal ``gamma`` two sensors differ by an affine map of the colours, which one network can apply without
    swapping classes, and which no segmentor that saw only one of them expects.
    """

    haze: Spectrum
    """Light added by the air, as a share."""
    mixing: tuple[Spectrum, Spectrum, Spectrum, Spectrum]
    """Rows: what each of the picture's R, G, B, IR takes of the R, G, B, IR seen (gain, overlapping filters)."""
    gamma: Spectrum
    offset: Spectrum
    """Veiling light: what the darkest pixel has, as a share of white."""
    blur_px: float
    noise: float
    """Standard deviation of the noise of a mid-grey pixel in 8-bit numbers; its square rises with brightness."""


@dataclass(frozen=True)
class Look:
    """Everything that differs between two domains."""

    gsd_m: float
    """Ground sampling distance in metres per pixel."""
    terrain: Terrain
    sun: Sun
    sensor: Sensor
    dryness: float
    """Mean of the lawns' place between ``lawn_lush`` (0) and ``lawn_dry`` (1)."""
    crown: Spectrum
    conifer: Spectrum
    hedge: Spectrum
    asphalt: Spectrum
    slabs: Spectrum
    roofs: Palette
    flat_roofs: Palette
    lawn_lush: Spectrum = (0.085, 0.14, 0.06, 0.50)
    lawn_dry: Spectrum = (0.30, 0.25, 0.15, 0.38)
    marking: Spectrum = (0.68, 0.68, 0.66, 0.66)
    glass: Spectrum = (0.05, 0.06, 0.07, 0.06)
    skylight: Spectrum = (0.34, 0.38, 0.44, 0.30)
    solar_panel: Spectrum = (0.035, 0.045, 0.085, 0.05)
    water: Spectrum = (0.10, 0.30, 0.38, 0.03)
    car_paints: Palette = Palette(
        (
            (0.30, (0.78, 0.78, 0.77, 0.76)),
            (0.22, (0.46, 0.47, 0.49, 0.46)),
            (0.22, (0.045, 0.045, 0.05, 0.06)),
            (0.10, (0.07, 0.13, 0.36, 0.22)),
            (0.10, (0.48, 0.06, 0.05, 0.50)),
            (0.06, (0.60, 0.50, 0.10, 0.60)),
        )
    )
    containers: Palette = Palette(
        (
            (0.35, (0.06, 0.20, 0.48, 0.16)),
            (0.35, (0.52, 0.16, 0.06, 0.36)),
            (0.30, (0.05, 0.32, 0.22, 0.20)),
        )
    )
    heaps: Palette = Palette(
        (
            (0.5, (0.42, 0.30, 0.19, 0.50)),
            (0.5, (0.50, 0.46, 0.40, 0.52)),
        )
    )
    courts: Palette = Palette(
        (
            (0.5, (0.46, 0.18, 0.11, 0.42)),
            (0.5, (0.08, 0.22, 0.46, 0.14)),
        )
    )


# Source: noon of an early summer, lush grass, red and brown roofs, flat country; a crisp sensor of warm tone.
SOURCE = Look(
    gsd_m=0.05,
    terrain=Terrain(offset_m=34.0, hills_m=1.2, wavelength_m=420.0, undulation_m=0.03),
    sun=Sun(azimuth_deg=152.0, elevation_deg=56.0, sky=(0.24, 0.27, 0.32, 0.20)),
    sensor=Sensor(
        haze=(0.035, 0.035, 0.03, 0.02),
        mixing=((1.12, 0, 0, 0), (0, 1.10, 0, 0), (0, 0, 1.04, 0), (0, 0, 0, 1.04)),
        gamma=(0.62, 0.62, 0.64, 0.70),
        offset=(0.0, 0.0, 0.0, 0.0),
        blur_px=0.7,
        noise=2.0,
    ),
    dryness=0.25,
    crown=(0.050, 0.095, 0.035, 0.42),
    conifer=(0.032, 0.060, 0.032, 0.27),
    hedge=(0.060, 0.105, 0.045, 0.40),
    asphalt=(0.21, 0.205, 0.20, 0.22),
    slabs=(0.37, 0.35, 0.32, 0.38),
    roofs=Palette(
        (
            (0.50, (0.36, 0.165, 0.105, 0.40)),
            (0.25, (0.24, 0.145, 0.105, 0.29)),
            (0.25, (0.115, 0.115, 0.125, 0.13)),
        )
    ),
    flat_roofs=Palette(
        (
            (0.6, (0.46, 0.45, 0.43, 0.46)),
            (0.4, (0.29, 0.28, 0.27, 0.29)),
        )
    ),
)

# Target: afternoon of a late summer, drier grass, darker crowns and roofs, hills; a soft, noisy sensor of low contrast
# with a blue-green veil, whose red and green take in infrared and red and whose infrared is weak.
TARGET = Look(
    gsd_m=0.09,
    terrain=Terrain(offset_m=271.0, hills_m=5.0, wavelength_m=380.0, undulation_m=0.06),
    sun=Sun(azimuth_deg=238.0, elevation_deg=46.0, sky=(0.22, 0.26, 0.33, 0.18)),
    sensor=Sensor(
        haze=(0.035, 0.035, 0.03, 0.02),
        mixing=((0.70, 0.0, 0.0, 0.18), (0.16, 0.68, 0.0, 0.0), (0.0, 0.16, 0.72, 0.0), (0.06, 0.0, 0.0, 0.62)),
        gamma=(0.62, 0.62, 0.64, 0.70),
        offset=(0.07, 0.20, 0.22, 0.08),
        blur_px=0.8,
        noise=3.0,
    ),
    dryness=0.45,
    crown=(0.050, 0.082, 0.036, 0.35),
    conifer=(0.030, 0.052, 0.030, 0.23),
    hedge=(0.058, 0.092, 0.045, 0.34),
    asphalt=(0.19, 0.195, 0.205, 0.20),
    slabs=(0.35, 0.34, 0.33, 0.36),
    roofs=Palette(
        (
            (0.40, (0.30, 0.145, 0.10, 0.34)),
            (0.30, (0.20, 0.13, 0.10, 0.25)),
            (0.30, (0.100, 0.100, 0.115, 0.115)),
        )
    ),
    flat_roofs=Palette(
        (
            (0.6, (0.44, 0.43, 0.42, 0.44)),
            (0.4, (0.26, 0.26, 0.27, 0.26)),
        )
    ),
)
