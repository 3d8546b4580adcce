"""Station 2, forms: what the JSON of a folder of shards must look like, for whoever cannot take its word for it.

The store trusts what the writer wrote and a checksum vouches for. These forms are for ``drdg.verify.folders``, to which
any byte may be wrong.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
# A plain name: what a damaged manifest says must not lead out of its folder.
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{6,9}\.tar$")]
Range = tuple[float, float]
Six = tuple[float, float, float, float, float, float]
Four = tuple[Count, Count, AtLeastOne, AtLeastOne]


class Form(BaseModel):
    """Exact types, no unknown keys, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Place(Form):
    """Where one member's bytes lie in the tar, and its array's in them."""

    offset: Count
    size: Count
    data: Count | None = None
    shape: tuple[Count, ...] | None = None
    dtype: str | None = None
    codec: Literal["zstd"] | None = None


class IndexedSample(Form):
    """One sample of an index."""

    key: str
    members: dict[str, Place]


class Index(Form):
    """``shard-000000.index.json``."""

    plan: str
    shard: ShardName
    codec: Literal["raw", "zstd"]
    bytes: Count
    xxh128: Hash
    label_pixels: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,2})$")], Count]
    samples: tuple[IndexedSample, ...]


class Entry(Form):
    """One shard in the manifest."""

    file: ShardName
    samples: AtLeastOne
    bytes: Count
    xxh128: Hash
    index_xxh128: Hash


class TopFacts(Form):
    """One TOP in the manifest."""

    height: AtLeastOne
    width: AtLeastOne
    gsd_m: float | None
    crs: str | None
    transform: Six
    tiles: AtLeastOne
    dsm_range_m: Range | None = None


class Domain(Form):
    """What the samples are."""

    archive: str
    split: str
    tile: AtLeastOne
    stride: AtLeastOne
    edge: Literal["drop", "shift"]
    gsd_m: float | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    dsm: bool
    label: bool
    codec: Literal["raw", "zstd"]


class Manifest(Form):
    """``manifest.json``."""

    domain: Domain
    tops: dict[str, TopFacts]
    dsm_range_m: Range | None
    plan: str
    samples: AtLeastOne
    class_pixels: dict[str, Count]
    void_pixels: Count
    shards: Annotated[tuple[Entry, ...], Field(min_length=1)]
    xxh128: Hash


class Meta(Form):
    """``KEY.json`` of a sample; ``window`` or, of a translated one, ``source_window``: row, col, height, width."""

    top: str
    window: Four | None = None
    source_window: Four | None = None
    crs: str | None
    transform: Six
    gsd_m: float | None
    dsm_offset_m: float | None = None
    dsm_step_m: float | None = None
    ground_offset_m: float | None = None
    ground_step_m: float | None = None
    ground_cell_px: AtLeastOne | None = None
    ground_origin_px: tuple[float, float] | None = None


AnyForm = TypeVar("AnyForm", bound=Form)


def read_form(form: type[AnyForm], text: bytes) -> AnyForm:
    """``text``, JSON, as ``form``; ``ValueError`` with a few words when it is none or another."""
    try:
        return form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
