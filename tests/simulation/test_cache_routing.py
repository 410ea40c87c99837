"""How much of the prompts engines find in their caches, by what routers are told."""

from __future__ import annotations

from statistics import mean

import pytest

from tests.simulation.cache_world import Scene, Seen, Told, World

SEEDS = (1, 2, 3)
CHANCE, OWN, GOT, EVICTED, ALL = "chance", "own", "got", "evicted", "all"
"""Chosen by chance; by what each router sent itself; by what engines tell that they got, or also
what they evicted; by all that is in the caches."""

TOLD: dict[str, Told] = {GOT: "got", EVICTED: "evicted"}


def seen(scene: Scene, way: str) -> Seen:
    """Return the means of some runs."""
    came = []
    for seed in SEEDS:
        choose = {CHANCE: World.by_chance, ALL: World.knowing_all}.get(way, World.by_router)
        came.append(World(scene, seed, TOLD.get(way, "")).run(choose))
    return Seen(mean(each.hit_rate for each in came), mean(each.wait for each in came))


@pytest.mark.parametrize("routers", [2, 4])
def test_routers_that_are_told_find_nearly_as_much_as_one_that_sends_everything(
    routers: int,
) -> None:
    scene = Scene(replicas=4, routers=routers, documents=40, clients=12, cache=1.5)
    rates = {way: seen(scene, way).hit_rate for way in (CHANCE, OWN, GOT, ALL)}
    single = seen(scene._replace(routers=1), OWN).hit_rate
    assert rates[CHANCE] < rates[OWN] < rates[GOT] - 0.05
    assert rates[GOT] > single - 0.03
    assert rates[ALL] > rates[GOT] - 0.05


@pytest.mark.parametrize("routers", [1, 4])
def test_routers_that_hear_of_evictions_find_nearly_as_much_as_if_they_knew_the_caches(
    routers: int,
) -> None:
    scene = Scene(replicas=4, routers=routers, documents=40, clients=12, cache=0.75)
    found = {way: seen(scene, way) for way in (GOT, EVICTED, ALL)}
    assert found[EVICTED].hit_rate > found[GOT].hit_rate + 0.03
    assert found[EVICTED].hit_rate > found[ALL].hit_rate - 0.03
    assert found[EVICTED].wait < found[GOT].wait


if __name__ == "__main__":
    for replicas, routers, documents, clients in [(4, 1, 40, 12), (4, 4, 40, 12), (8, 4, 100, 24)]:
        for cache in (0.5, 1.0, 1.5):
            scene = Scene(replicas, routers, documents, clients, cache)
            print(scene)
            for way in (CHANCE, OWN, GOT, EVICTED, ALL):
                rate, wait = seen(scene, way)
                print(f"    {way}: {rate:.0%}, {wait:.2f} s")
