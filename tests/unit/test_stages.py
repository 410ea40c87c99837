"""Which stage of its start an engine has reached, read off its log."""

import pytest

from nebula.cli.stages import LONGEST, stage


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ""),
        (["nebula: an engine starts here, for chat-0"], ""),
        (
            ["(EngineCore pid=7) INFO 11-28 07:11:54 [loader.py:314] Loading weights took 2 s"],
            "Loading weights took 2 s",
        ),
        (
            ["INFO:     Waiting for application startup.", "", "  "],
            "Waiting for application startup.",
        ),
        (["loading: 10 %\rloading: 40 %"], "loading: 40 %"),
        (["(APIServer pid=7) INFO 11-28 07:11:54 [a.py:1] Route: /v1", "-----"], "Route: /v1"),
        (["\x1b[32mall is\x1b[0m well"], "all is well"),
    ],
)
def test_the_last_words_of_a_start_are_its_stage(lines: list[str], words: str) -> None:
    assert stage(lines) == words


def test_a_stage_is_one_short_line() -> None:
    assert len(stage(["word " * 100])) == LONGEST
