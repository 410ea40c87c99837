"""What `nebula weights` shows of the files on the nodes."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from nebula.cli import weights
from nebula.events.intents import WeightsPinRequested, WeightsRemoveRequested
from nebula.events.memory import GIB, MIB
from nebula.events.vocabulary import (
    DownloadFailed,
    DownloadFinished,
    DownloadProgressed,
    DownloadStarted,
)
from tests.unit.story import Story, cluster


def shown(story: Story) -> list[str]:
    out = StringIO()
    Console(file=out, width=120).print(weights.table(story.state))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_each_source_has_a_line_that_says_how_it_stands() -> None:
    story = cluster(alpha=[80], beta=[80]).given(
        "beta",
        DownloadStarted("lab/half", total=4 * GIB),
        DownloadProgressed("lab/half", GIB, 4 * GIB),
        DownloadStarted("lab/broken", total=10 * MIB),
        DownloadFailed("lab/broken", "the line [is] down", 5.0),
    )
    story.given("alpha", DownloadFinished("lab/whole", 500 * MIB))
    story.given(
        "alpha", DownloadFinished("lab/going", 1 * GIB), WeightsRemoveRequested("lab/going")
    )
    story.given("alpha", WeightsPinRequested("lab/whole"), WeightsPinRequested("lab/later"))
    assert shown(story) == [
        "NODE SOURCE SIZE STATE",
        "alpha lab/going 1.0GiB to be removed",
        "alpha lab/later - not there, pinned",
        "alpha lab/whole 500.0MiB whole, pinned",
        "beta lab/broken 10.0MiB 0 % there, failed: the line [is] down",
        "beta lab/half 4.0GiB 25 % there",
    ]


def test_of_what_is_pinned_it_is_told_how_much_of_it_is_there() -> None:
    story = cluster(n1=[80])
    said = []
    for event in (
        WeightsPinRequested("lab/m"),
        DownloadStarted("lab/m", total=4 * GIB),
        DownloadProgressed("lab/m", GIB, 4 * GIB),
        DownloadFinished("lab/m", 4 * GIB),
        WeightsPinRequested("lab/m", pinned=False),
    ):
        story.given("n1", event)
        said.append(weights.kept(story.state, "n1", "lab/m"))
    assert said == [
        "n1 has no files of it; when a model brings them, they are kept",
        "kept on n1, 0 % there so far",
        "kept on n1, 25 % there so far",
        "kept on n1",
        "no longer kept on n1",
    ]
