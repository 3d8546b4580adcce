"""The two presets: ``paper`` is the schema's defaults, ``authors`` what their released code computes instead.

Each entry of ``AUTHORS`` is one row of the list of differences between the paper's text and the code at commit 1dc0be8;
``tests/test_presets.py`` shows the difference each one makes.
"""

from __future__ import annotations

from typing import Any

AUTHORS: dict[str, Any] = {
    "generator": {"depth_decoder": "shared"},
    "critic": {"norm_eps": 0.8},
    "dsm": {"range": "symmetric"},
    "loss": {
        "berhu": {"scope": "batch", "live_threshold": True, "additive_eps": 1e-4},
        "depth_resize": "legacy_nearest",
    },
    "gan": {"order": "replacement", "schedule": {"watch": "last_batch"}},
    "segmentation": {"validation": "target", "checkpoint": "best"},
    "evaluation": {"protocol": "authors_batch_mean"},
}

PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "authors": AUTHORS}
