from __future__ import annotations

import pytest

from drdg.verify.summary import class_lines, ground_resolution, heights, megabytes, shares


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (307_200_000, "307.2 MB"), (5e15, "5000.0 TB")],
)
def test_sizes_have_the_unit_that_keeps_them_short(count: int, said: str) -> None:
    assert megabytes(count) == said


def test_lengths_are_said_as_people_say_them() -> None:
    assert ground_resolution(0.05) == "5 cm"
    assert ground_resolution(0.09) == "9 cm"
    assert ground_resolution(2.0) == "2 m"
    assert ground_resolution(None) == "unknown"
    assert heights((34.578, 49.1)) == "34.58 to 49.10 m"
    assert heights(None) == ""


def test_shares_are_of_all_pixels() -> None:
    assert shares({"a": 1, "b": 3}) == {"a": "25.00 %", "b": "75.00 %"}
    assert shares({"a": 0}) == {}


def test_folders_with_other_classes_leave_gaps() -> None:
    lines = class_lines([{"low_vegetation": 1, "b": 1}, {}, {"b": 1}])
    assert lines == {"low vegetation": ["50.00 %", "", ""], "b": ["50.00 %", "", "100.00 %"]}
