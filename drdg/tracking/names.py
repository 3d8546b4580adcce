"""Station 6, tracking: settings and names in the form MLflow takes."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted names and texts; what is neither mapping nor text is written as in JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[clean_name(name)] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def clean_name(name: str) -> str:
    """Return ``name`` with what MLflow refuses in names of parameters and metrics replaced by an underscore."""
    cleaned = re.sub(r"[^\w./ :-]", "_", name)
    # A name is also a path in some stores, so MLflow refuses "a//b", "/a", "a/../b" and ".".
    if cleaned.startswith(("/", "..")) or posixpath.normpath(cleaned) != cleaned:
        cleaned = re.sub(r"\.{2,}", "_", cleaned.replace("/", "_"))
    return "_" if cleaned == "." else cleaned


def shorten(text: str, limit: int) -> str:
    """Return ``text`` of at most ``limit`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
