"""What Nebula costs on real vLLM: the same engine through Nebula and called directly, in turns.

Needs a cluster with the demo whose engines listen on ports (`NEBULA_ENGINE_LISTEN=port make run`).
Prints a table of medians, and the ratio of each round with its spread. Every round asks the two
ways one after the other, so that a machine that slows down slows down both.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import httpx

CHAT = "smollm2-135m-instruct"


class Way:
    """One way to the engine."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=120, trust_env=False)

    async def stream(self, number: int, tokens: int) -> float:
        """Stream one answer to its end and give the seconds until its first token."""
        body = {
            "model": CHAT,
            "messages": [{"role": "user", "content": f"Count up from {number}."}],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        began = time.perf_counter()
        first = 0.0
        chunks = 0
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    chunks += 1
                    first = first or time.perf_counter() - began
        if chunks < tokens:
            raise SystemExit(f"an answer of {chunks} chunks where {tokens} tokens were asked for")
        return first


async def throughput(way: Way, streams: int, requests: int, tokens: int, salt: int) -> float:
    """Return requests per second with so many streams at a time."""
    numbers = iter(range(salt, salt + requests))

    async def worker() -> None:
        for number in numbers:
            await way.stream(number, tokens)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(streams)))
    return requests / (time.perf_counter() - began)


async def first_token(way: Way, requests: int, salt: int) -> float:
    """Return the median milliseconds to the first token, one request at a time."""
    times = [await way.stream(salt + number, 2) for number in range(requests)]
    return statistics.median(times) * 1000


async def compare(
    measure: Callable[[Way, int], Awaitable[float]], ways: tuple[Way, Way], rounds: int
) -> tuple[list[float], list[float]]:
    """Measure both ways in each round, the order turned about from round to round."""
    results: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            # Each measurement has prompts of its own: nothing is answered from a prefix cache
            # that the other way has filled.
            salt = 1_000_000 + 10_000 * (2 * number + index)
            results[index].append(await measure(ways[index], salt))
    return results


def row(what: str, unit: str, through: list[float], direct: list[float]) -> str:
    """Write one line of the table."""
    ratios = [a / b for a, b in zip(through, direct, strict=True)]
    return (
        f"| {what} | {statistics.median(through):.2f} {unit} | {statistics.median(direct):.2f} "
        f"{unit} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


async def main() -> None:
    """Find the engine behind the gateway, warm both ways up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()

    async with httpx.AsyncClient(base_url=options.url, trust_env=False) as admin:
        replicas = (await admin.get("/admin/replicas")).json()
    port = next(item["engine"]["port"] for item in replicas if item["model"] == CHAT)
    ways = (Way(options.url), Way(f"http://127.0.0.1:{port}"))
    for way in ways:
        await throughput(way, 8, 8, options.tokens, 0)

    through, direct = await compare(
        lambda way, salt: throughput(way, 8, options.requests, options.tokens, salt),
        ways,
        options.rounds,
    )
    print("| what | through Nebula | the engine directly | ratio, median (min to max) |")
    print("| --- | --- | --- | --- |")
    print(row(f"{options.tokens} tokens, 8 streams", "requests/s", through, direct))
    through, direct = await compare(
        lambda way, salt: first_token(way, 20, salt), ways, options.rounds
    )
    print(row("time to first token, 1 stream", "ms", through, direct))
    added = [a - b for a, b in zip(through, direct, strict=True)]
    print(
        f"\nadded to the time to first token: {statistics.median(added):.2f} ms "
        f"({min(added):.2f} to {max(added):.2f}), over {options.rounds} rounds of each"
    )


if __name__ == "__main__":
    asyncio.run(main())
