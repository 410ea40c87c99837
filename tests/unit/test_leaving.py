"""When what was asked to go is gone, and what of it is still awaited."""

from nebula.events.intents import (
    AdapterLoadRequested,
    AdapterUnloadRequested,
    ModelScaleRequested,
    ModelUnloadRequested,
    NodeDrainRequested,
    NodeUndrainRequested,
)
from nebula.events.vocabulary import (
    AdapterLoaded,
    AdapterLoadFailed,
    AdapterUnloaded,
    EngineFailed,
    ModelUnloaded,
    NodeLost,
)
from nebula.history.leaving import adapter_unloading, emptying, unloading
from nebula.history.outcome import Coming, Outcome, Progress
from tests.unit.story import Story, cluster, gpus, load


def serving() -> Story:
    """Return a story with an adapter on two replicas, on two nodes."""
    story = cluster(n1=[80], n2=[80]).given("chat", load(2, "8GiB", lora=True))
    story.settles()
    story.runs("chat-0").runs("chat-1").given("chat", AdapterLoadRequested("poet", "/poet"))
    for replica in ("chat-0", "chat-1"):
        story.given(replica, AdapterLoaded("poet", "/poet"))
    return story


def asked(story: Story) -> tuple[Story, int]:
    """Ask for it to go; return the event's sequence too."""
    story.given("chat", AdapterUnloadRequested("poet"))
    return story, story.state.seq


def stands(story: Story, seq: int) -> Outcome:
    """Return how that stands now."""
    return adapter_unloading(story.state, "chat", "poet", seq)


def test_an_adapter_is_off_when_no_replica_has_it_any_more() -> None:
    story, seq = asked(serving())
    assert stands(story, seq + 1).text == f"waits to read event {seq + 1} in the log"
    assert stands(story, seq).text == ("chat-0 on n1 unloads poet; chat-1 on n2 unloads poet")
    story.given("chat-1", AdapterUnloaded("poet"))
    assert [each.node for each in stands(story, seq).coming] == ["n1"]
    story.given("chat-0", AdapterUnloaded("poet"))
    assert stands(story, seq) == Outcome(Progress.FULFILLED, "poet is unloaded from chat")


def test_a_lost_node_is_not_waited_for_and_named() -> None:
    story, seq = asked(serving())
    story.given("chat-1", AdapterUnloaded("poet")).given("n1", NodeLost("silent"))
    found = stands(story, seq)
    assert found.progress == Progress.FULFILLED
    assert "chat-0 on n1 will be without it once that node is back" in found.text


def test_what_never_was_loaded_has_nothing_to_go() -> None:
    story = cluster(n1=[80]).given("chat", load(1, "8GiB", lora=True))
    story.settles()
    story.runs("chat-0").given("chat", AdapterLoadRequested("poet", "/poet"))
    story.given("chat-0", AdapterLoadFailed("poet", "/poet", "no"))
    assert stands(*asked(story)).progress == Progress.FULFILLED


def test_an_adapter_that_is_wanted_again_stays_and_goes_with_its_model() -> None:
    story, seq = asked(serving())
    story.given("chat", AdapterLoadRequested("poet", "/poet"))
    assert stands(story, seq).progress == Progress.IMPOSSIBLE
    story.given("chat", ModelUnloadRequested())
    assert stands(story, seq) == Outcome(Progress.FULFILLED, "chat is unloaded, and poet with it")


# A node that is to be empty


def draining(replicas: int = 1, nodes: int = 2) -> Story:
    """All replicas are on n1, which is to be empty."""
    story = cluster(n1=[80]).given("chat", load(replicas, "8GiB"))
    story.settles()
    for replica in story.places():
        story.runs(replica)
    if nodes == 2:
        story.given("n2", gpus(80))
    story.given("n1", NodeDrainRequested()).settles()
    return story


def test_a_node_is_empty_when_the_last_engine_there_has_ended() -> None:
    story = draining()
    assert emptying(story.state, "n1").progress == Progress.PENDING  # its successor starts
    story.runs("chat-1").settles()
    assert story.replica().retired
    found = emptying(story.state, "n1")
    assert (found.progress, found.coming[0]) == (
        Progress.PENDING,
        Coming("chat-0 on n1 finishes its requests and ends", "n1"),
    )
    assert {each.node for each in found.coming} == {"n1"}
    story.stops("chat-0")
    assert emptying(story.state, "n1").progress == Progress.FULFILLED
    assert emptying(story.state, "n9").progress == Progress.FULFILLED


def test_of_several_replicas_each_is_awaited_by_its_name() -> None:
    story = draining(2)
    moved = [replica for replica, place in story.places().items() if place.startswith("n2")]
    assert len(moved) == 1  # one at a time
    found = emptying(story.state, "n1")
    assert found.text.startswith("n1 still has chat-0, chat-1: ")
    assert {each.node for each in found.coming} == {"n2"}


def test_a_node_whose_replicas_can_go_nowhere_stays_as_it_is() -> None:
    found = emptying(draining(nodes=1).state, "n1")
    assert (found.progress, found.coming) == (Progress.IMPOSSIBLE, ())
    assert "what is left there (chat-0) moves as soon as it can" in found.todo


def test_a_node_that_is_lost_or_takes_replicas_again_is_not_awaited() -> None:
    story = draining()
    story.given("n1", NodeUndrainRequested())
    assert emptying(story.state, "n1").text.startswith("n1 takes replicas again")
    story = draining()
    story.given("n1", NodeLost("silent"))
    assert emptying(story.state, "n1").progress == Progress.IMPOSSIBLE
    assert "n1 is lost" in emptying(story.state, "n1").text


# A model that is to be unloaded


def test_a_model_is_awaited_where_its_nodes_are_there_and_not_where_they_are_gone() -> None:
    story = serving()
    story.given("chat", ModelUnloadRequested())
    seq = story.state.seq
    on_its_way = Outcome(Progress.PENDING, f"waits to read event {seq + 1} in the log")
    assert unloading(story.state, "chat", seq + 1) == on_its_way
    awaited = (Coming("chat-0 on n1 ends", "n1"), Coming("chat-1 on n2 ends", "n2"))
    assert unloading(story.state, "chat", seq) == Outcome(
        Progress.PENDING, "chat-0 on n1 ends; chat-1 on n2 ends", coming=awaited
    )
    story.given("n1", NodeLost("silent"))
    assert [each.node for each in unloading(story.state, "chat", seq).coming] == ["n2"]
    story.stops("chat-1")
    found = unloading(story.state, "chat", seq)
    assert (found.progress, found.coming) == (Progress.IMPOSSIBLE, ())
    assert found.text.startswith("chat stays unloading. Start `nebula node --name n1`")


def test_a_model_that_is_requested_again_stays() -> None:
    story = serving()
    story.given("chat", ModelUnloadRequested())
    seq = story.state.seq
    story.given("chat", load(2, "8GiB", lora=True))
    found = unloading(story.state, "chat", seq)
    assert (found.progress, found.coming) == (Progress.IMPOSSIBLE, ())
    assert found.text.startswith("chat stays: it was requested")


def test_a_model_is_gone_once_a_router_has_said_so() -> None:
    story = serving()
    story.given("chat", ModelUnloadRequested())
    seq = story.state.seq
    for replica in ("chat-0", "chat-1"):
        story.stops(replica)
    [router] = unloading(story.state, "chat", seq).coming
    assert router == Coming("its engines have ended, a router has yet to record that it is gone")
    story.given("chat", ModelUnloaded())
    assert unloading(story.state, "chat", seq) == Outcome(Progress.FULFILLED, "chat: unloaded")


def test_an_adapter_is_not_awaited_of_an_engine_that_goes_anyway() -> None:
    story = serving()
    story.given("chat", ModelScaleRequested(1)).settles()
    assert story.replica("chat-1").retired
    asked(story)
    assert [each.node for each in stands(story, story.state.seq).coming] == ["n1"]


def test_a_replica_that_never_served_is_not_said_to_finish_requests() -> None:
    story = draining()
    story.given("chat-0", EngineFailed("killed", -9, attempt=1, retry_in=1.0))
    story.runs("chat-0", ready=False).runs("chat-1").settles()
    assert (story.replica().retired, story.replica().phase) == (True, "starting")
    assert emptying(story.state, "n1").text == (
        "n1 still has chat-0: chat-0 on n1, which was still starting, ends"
    )
