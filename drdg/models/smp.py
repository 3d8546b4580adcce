"""Station 3, networks: the door to segmentation-models-pytorch, which needs torchvision to import.

torchvision's wheel on the Python package index is linked against CUDA. Beside a CPU torch its compiled operators cannot
be loaded, and it fails on import only because it declares how ``nms`` and ``qnms`` behave on shapes without looking
whether they exist. Declaring their schemas first lets the import pass; nothing is faked: whoever calls them still gets
torchvision's own error, and segmentation needs neither.
"""

from __future__ import annotations

from types import ModuleType

import torch

_declared: list[torch.library.Library] = []  # a declaration lasts as long as its Library object


def import_smp() -> ModuleType:
    """The module ``segmentation_models_pytorch``, whichever build of torch and torchvision is installed."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        # A CUDA or ROCm torch with this message is a broken installation, which must not be papered over.
        if "torchvision::nms does not exist" not in str(error) or torch.version.cuda or torch.version.hip:
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    import segmentation_models_pytorch

    return segmentation_models_pytorch
