"""Station 5, maps: the faces of a class map as polygons whose edges match, vertex by vertex.

GDAL's polygonizer leaves no vertex where a third class meets the side of a polygon, so its polygons look like a
coverage and are none, and what simplifies them by their edges tears gaps. Here a map's edges are cut at every such
place first, and faces are put together of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

OUTSIDE = -1  # what is beyond the map


def faces(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected regions of equal pixels, and their ids.

    ``ids``: int16 (H + 2, W + 2), a window with its neighbours around it, ``OUTSIDE`` where there are none; the
    neighbours only say where edges along the window's border are cut. Regions are connected by pixels' sides.
    Returns polygons (n,), valid and without overlaps, in pixels of the window (x along columns, y along rows, from its
    upper left corner), and their ids, int16 (n,). Neighbours have the same vertices along what they share, also with
    the faces of the windows around, cut in the same way.
    """
    import shapely

    assert ids.ndim == 2, ids.shape
    lines = np.concatenate([_runs(ids), _runs(ids.T)[:, :, ::-1]])
    # Merged between the places where edges meet, they are put together in half the time.
    edges = shapely.line_merge(shapely.multilinestrings(shapely.linestrings(lines.astype(np.float64))))
    polygons = shapely.get_parts(shapely.polygonize(shapely.get_parts(edges)))
    inside = shapely.get_coordinates(shapely.point_on_surface(polygons))
    # An inner point of a face may lie between its pixels, but then all around it are the face's.
    cols, rows = np.floor(inside).astype(int).T
    return polygons, ids[rows + 1, cols + 1]


def _runs(ids: np.ndarray) -> np.ndarray:
    """The straight pieces of edges along rows' ends: int (n, 2, 2), pairs of points (x, y) one above the other.

    A piece ends where the edge turns and where another meets it.
    """
    # edge[r, c]: between the pixels (r, c - 1) and (r, c) of the window; one row more above and below.
    edge = ids[:, :-1] != ids[:, 1:]
    edge[1:-1, 0] = edge[1:-1, -1] = True
    # cross[r, c]: whether an edge goes left or right of the corner (r, c), the upper left one of the pixel (r, c).
    across = ids[:-1] != ids[1:]
    across[0, 1:-1] = across[-1, 1:-1] = True
    cross = across[:, :-1] | across[:, 1:]
    within = edge[1:-1]
    starts = within & (cross[:-1] | ~edge[:-2])
    ends = within & (cross[1:] | ~edge[2:])
    # By columns, so that the n-th start and the n-th end are one piece's.
    first_col, first_row = np.nonzero(starts.T)
    last_col, last_row = np.nonzero(ends.T)
    assert np.array_equal(first_col, last_col), "a piece without an end"
    pieces: np.ndarray[Any, Any] = np.stack(
        [np.stack([first_col, first_row], axis=1), np.stack([last_col, last_row + 1], axis=1)], axis=1
    )
    return pieces
