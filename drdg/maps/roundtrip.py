"""Station 5, maps: a network as a file of torch.export or ONNX, and whether that file computes what the network does.

Exporters are asked for open batch, height and width first, and for less where they cannot, or where the file then
computes something else: PSPNet's pooling, say, comes out of the ONNX exporter right at one size and wrong at others.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from drdg.maps.subjects import Subject

# Of the largest absolute value of an output. Two implementations of convolutions in float32 agree to about 1e-6 for
# each of some dozens of layers; a wrong layer is off by 1e-2 and more.
TOLERANCE = 1e-4
AXES = {"batch": 0, "height": 2, "width": 3}
# What encoders halve to in the end: sides that are multiples of it are the same on the way down and up, while others
# are padded or cropped by a rule that exporters take for a guard.
DEEPEST = 32
MOST = {"batch": 4096, "height": 65536, "width": 65536}
SMALLEST_SIDE = 128  # of the images that are compared; below, deep encoders have less than a pixel left
FORMATS = ("pt2", "onnx")

Run = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Opening:
    """What is left open of the input's shape."""

    axes: tuple[str, ...]
    multiple: int
    """Open sides are multiples of this."""
    side: int | None
    """The side of images where height and width are not open."""

    def __str__(self) -> str:
        if not self.axes:
            return "nothing open"
        multiples = f", in multiples of {self.multiple}" if self.side is None and self.multiple > 1 else ""
        return f"{', '.join(self.axes)} open{multiples}"


def ladder(subject: Subject) -> list[Opening]:
    """What is left open of the subject's input, from most to least."""
    multiples = dict.fromkeys((subject.multiple, math.lcm(subject.multiple, DEEPEST)))
    free = [Opening(("batch", "height", "width"), multiple, None) for multiple in multiples]
    return [*free, Opening(("batch",), 1, subject.side), Opening((), 1, subject.side)]


@dataclass(frozen=True)
class Written:
    """A network as a file's bytes, and how near it comes to the network."""

    format: str
    data: bytes
    opening: Opening
    largest_difference: float
    """Over all outputs and compared images, as a share of the output's largest absolute value."""
    same_class: float | None
    """Share of pixels of the same class, for a segmentor."""
    compared: list[str]
    refused: list[str]
    """Why less is open than could be, a sentence for each attempt."""


def write(
    subject: Subject,
    format: str,
    notes: Mapping[str, Any],
    *,
    tolerance: float = TOLERANCE,
    pictures: Sequence[Tensor] = (),
) -> Written:
    """Export ``subject`` with as much left open as is right, and compare the file with it.

    ``notes`` go into the file. ``pictures``: bytes (3, H, W) of real images to compare on, beside made ones. Raises
    ``ValueError`` when nothing that comes out is within ``tolerance``.
    """
    refused: list[str] = []
    for opening in ladder(subject):
        try:
            with _quiet():
                data, run = ENCODERS[format](subject, _program(subject, opening), opening, notes)
                difference, same, compared = _compare(subject, run, opening, pictures)
        except Exception as error:  # each layer that cannot be exported, or run, fails in a way of its own
            refused.append(f"with {opening}, it fails ({_first_line(error)})")
            continue
        if difference <= tolerance:
            return Written(format, data, opening, difference, same, compared, refused)
        refused.append(f"with {opening}, it differs by {difference:.2g} of the largest value")
    raise ValueError(
        f"{subject.path}: as {format} this {subject.name} is not what it is in torch, within {tolerance:g} "
        f"({'; '.join(refused)}); take another of the formats {', '.join(FORMATS)}, or a larger --tolerance"
    )


def _program(subject: Subject, opening: Opening) -> ExportedProgram:
    height, width = _sizes(opening)[0]
    # Two images, as torch.export takes a batch of one for a constant.
    count = 2 if "batch" in opening.axes else 1
    example = subject.images(torch.zeros(count, 3, height, width, dtype=torch.uint8))
    dims: dict[int, Any] = {}
    for axis in opening.axes:
        multiple = 1 if axis == "batch" else opening.multiple
        dim = Dim(axis, min=1 if axis == "batch" else max(2, -(-DEEPEST // multiple)), max=MOST[axis] // multiple)
        dims[AXES[axis]] = multiple * dim if multiple > 1 else dim
    return torch.export.export(subject.network, (example,), dynamic_shapes=(dims,) if dims else None, strict=False)


def _as_pt2(
    subject: Subject, program: ExportedProgram, opening: Opening, notes: Mapping[str, Any]
) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"card.json": json.dumps(notes)})
    module = torch.export.load(io.BytesIO(file.getvalue())).module()

    def run(images: Tensor) -> Sequence[Tensor]:
        found: Sequence[Tensor] = module(images)
        return found

    return file.getvalue(), run


def _as_onnx(
    subject: Subject, program: ExportedProgram, opening: Opening, notes: Mapping[str, Any]
) -> tuple[bytes, Run]:
    import onnx
    import onnxruntime

    names = list(subject.outputs)
    made = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"], output_names=names, external_data=False
    )
    assert made is not None
    model = made.model_proto
    _name_axes(model, opening.axes)
    onnx.helper.set_model_props(model, {"card.json": json.dumps(notes)})
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about what it optimised away
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(array) for array in session.run(names, {"images": images.numpy()})]

    return data, run


ENCODERS = {"pt2": _as_pt2, "onnx": _as_onnx}


def _name_axes(model: Any, axes: Sequence[str]) -> None:
    """Call the open dimensions of inputs and outputs by their names: the exporter has numbered them (``8*s77``)."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[AXES[axis]].dim_param: axis for axis in axes}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _compare(
    subject: Subject, run: Run, opening: Opening, pictures: Sequence[Tensor]
) -> tuple[float, float | None, list[str]]:
    """The largest difference, the share of pixels of the same class, and what was compared."""
    largest, alike, pixels = 0.0, 0, 0
    compared = []
    for number, (height, width) in enumerate(_sizes(opening)):
        count = 1 + number % 2 if "batch" in opening.axes else 1
        for what, images in _inputs(subject, count, height, width, pictures):
            compared.append(f"{what}, {count} of {height} x {width}")
            with torch.no_grad():
                wanted, given = subject.network(images), run(images)
            for expected, found in zip(wanted, given, strict=True):
                if expected.shape != found.shape:
                    return float("inf"), None, compared
                scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
                off = float((expected - found).abs().max()) / scale
                largest = max(largest, off if off == off else float("inf"))  # NaN is no agreement
                if subject.classes:
                    alike += int((expected.argmax(1) == found.argmax(1)).sum())
                    pixels += expected.argmax(1).numel()
    return largest, alike / pixels if pixels else None, compared


def _sizes(opening: Opening) -> list[tuple[int, int]]:
    """The sizes to compare at: two where there is a choice, neither square, lest anybody take height for width."""
    if opening.side is not None:
        return [(opening.side, opening.side)]
    least = max(2, -(-SMALLEST_SIDE // opening.multiple))
    sizes = ((least, least + 1), (least + 3, least + 2))
    return [(rows * opening.multiple, cols * opening.multiple) for rows, cols in sizes]


def _inputs(
    subject: Subject, count: int, height: int, width: int, pictures: Sequence[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Images by what they are: noise, something smooth as pictures are, and real ones where there are any."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    yield "noise", subject.images(noise)
    coarse = torch.rand((count, 3, 6, 6), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1) * 255
    yield "smooth colours", subject.images(smooth.to(torch.uint8))
    if pictures:
        chosen = [_fitted(pictures[number % len(pictures)], height, width) for number in range(count)]
        yield "real tiles", subject.images(torch.stack(chosen))


def _fitted(picture: Tensor, height: int, width: int) -> Tensor:
    """The upper left ``height`` x ``width`` of a picture (3, H, W), which is repeated where it is smaller."""
    rows, cols = -(-height // picture.shape[1]), -(-width // picture.shape[2])
    return picture.repeat(1, rows, cols)[:, :height, :width]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings, which speak to their developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
