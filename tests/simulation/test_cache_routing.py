"""How much of the prompts engines find in their caches, by what routers are told."""

from __future__ import annotations

from statistics import mean

import pytest

from tests.simulation.cache_world import Scene, Seen, World

SEEDS = (1, 2, 3)
CHANCE, OWN, TOLD, ALL = "chance", "own", "told", "all"
"""Chosen by chance; by what each router sent itself; by what engines tell too; with all known."""


def seen(scene: Scene, way: str) -> Seen:
    """Return the means of some runs."""
    came = []
    for seed in SEEDS:
        world = World(scene, seed, told=way == TOLD)
        choose = {CHANCE: World.by_chance, ALL: World.knowing_all}.get(way, World.by_router)
        came.append(world.run(choose))
    return Seen(mean(each.hit_rate for each in came), mean(each.wait for each in came))


@pytest.mark.parametrize("routers", [2, 4])
def test_routers_that_are_told_find_nearly_as_much_as_one_that_sends_everything(
    routers: int,
) -> None:
    scene = Scene(replicas=4, routers=routers, documents=40, clients=12, cache=1.5)
    rates = {way: seen(scene, way).hit_rate for way in (CHANCE, OWN, TOLD, ALL)}
    single = seen(scene._replace(routers=1), OWN).hit_rate
    assert rates[CHANCE] < rates[OWN] < rates[TOLD] - 0.05
    assert rates[TOLD] > single - 0.03
    assert rates[ALL] > rates[TOLD] - 0.05


if __name__ == "__main__":
    for replicas, routers, documents, clients in [(4, 1, 40, 12), (4, 4, 40, 12), (8, 4, 100, 24)]:
        for cache in (0.5, 1.0, 1.5):
            scene = Scene(replicas, routers, documents, clients, cache)
            told = {way: seen(scene, way) for way in (CHANCE, OWN, TOLD, ALL)}
            print(
                scene, {way: f"{each.hit_rate:.0%} {each.wait:.2f} s" for way, each in told.items()}
            )
