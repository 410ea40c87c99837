"""What is to be said of several things alike is said once, and of none too little."""

from hypothesis import given
from hypothesis import strategies as st

from nebula.cli import tables
from nebula.cli.tables import LONGEST_REASON
from nebula.events.alike import NAMED, together
from nebula.events.intents import AdapterLoadRequested
from nebula.events.model_status import model_status
from nebula.events.vocabulary import AdapterLoadFailed, EngineFailed
from nebula.history.outcome import asked, outcome
from tests.unit.story import Story, cluster, load


def test_replicas_that_stand_alike_are_told_of_in_one_sentence() -> None:
    story = three()
    assert model_status(story.state, story.model()).detail == (
        "chat-0 on n1 waits to be started (likewise chat-1 on n2, chat-2 on n3)"
    )
    story.runs("chat-1", ready=False)
    assert model_status(story.state, story.model()).detail == (
        "chat-0 on n1 waits to be started (likewise chat-2 on n3); "
        "chat-1 on n2 is starting (attempt 1)"
    )


def three() -> Story:
    """Return a story with a model that has a replica on each of three nodes, and no engine yet."""
    story = cluster(n1=[80], n2=[80], n3=[80]).given("chat", load(3, "8GiB", lora=True))
    story.settles()
    return story


@given(st.dictionaries(st.text("abc", min_size=1), st.sampled_from([": x", ": y 1", ": y 2"])))
def test_everything_is_named_and_every_kind_of_words_is_there(said: dict[str, str]) -> None:
    texts = together(said.items())
    kinds = {words.rstrip(" 12") for words in said.values()}
    assert len(texts) == len(kinds)
    for words in kinds:
        names = [name for name, each in said.items() if each.startswith(words)]
        (text,) = (each for each in texts if each.startswith(f"{names[0]}{words}"))
        assert all(name in text for name in names[: NAMED + 1])


def test_of_very_many_some_are_named_and_the_others_counted() -> None:
    (text,) = together((f"chat-{number}", " waits") for number in range(NAMED + 4))
    assert text.endswith(f"chat-{NAMED} and 3 more)")


def test_the_reason_of_an_adapter_that_failed_is_told_once() -> None:
    story = three()
    for number in range(3):
        story.runs(f"chat-{number}")
    before = story.state
    story.given("chat", AdapterLoadRequested("poet", "/poet"))
    wish = asked(story.state, "chat", story.state.seq, "poet", before)
    for number in range(3):
        story.given(f"chat-{number}", AdapterLoadFailed("poet", "/poet", "its rank is too large"))
    found = outcome(story.state, wish)
    assert " ".join((found.text, *found.troubles)).count("its rank is too large") == 1
    assert "chat-2 on n3" in found.text


def cells(story: Story, header: str) -> list[str]:
    """Return a column of the table of replicas."""
    table = tables.replicas(story.state)
    (column,) = (each for each in table.columns if each.header == header)
    return [str(cell) for cell in column.cells]


def test_a_long_reason_is_cut_with_the_command_that_tells_all_and_told_once() -> None:
    story = three()
    for number in range(2):
        story.fails(f"chat-{number}")
    assert cells(story, "REASON") == ["killed", "as chat-0", ""]
    story.given("chat-2", EngineFailed("long " * 100, 1, attempt=1, retry_in=1.0))
    told = cells(story, "REASON")[2]
    assert told.endswith("… (`nebula why chat-2`)")
    assert len(told) <= LONGEST_REASON + 25
