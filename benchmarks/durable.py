"""Background responses and a batch, while everything that works on them is killed.

`python -m benchmarks.durable` from the repository's root. Two `nebula up` with two engines get
background responses and a batch by OpenAI's own client; then an engine, a gateway, a router and the
NATS server are killed, and at last every process at once. In the end each response has to be
there with its whole text, each reader must have seen each event once, and each line of the batch
has one result.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import openai
from openai import AsyncOpenAI

from benchmarks import cluster as clusters
from benchmarks.cluster import Cluster, Wanted, two_replicas
from benchmarks.data_plane.processes import Failed
from benchmarks.data_plane.ways import MODEL, REPOSITORY, SIMULATED
from benchmarks.session import context, folder_option, headline, session

TOKENS = 2500  # of a response: it must last longer than all deaths take
OF_A_LINE = 100  # tokens of a line of the batch
VLLM_TOKENS = 600  # the same on real vLLM, whose contexts are short here
VLLM_OF_A_LINE = 40
TOKEN = 0.02  # seconds of a simulated engine for a token
DEATHS = ("engine", "gateway", "router", "nats-server", "everything")
APART = 4.0  # seconds between a death and the next, after everything serves again
PATIENCE = 900.0  # seconds for all work to end
PAUSE = 0.3  # seconds before a client comes back
ENDED = ("completed", "failed", "cancelled", "incomplete")
OVER = ("completed", "failed", "expired", "cancelled")


class Work(NamedTuple):
    """What is asked for: `texts` and `lines` are the right answers, by their numbers."""

    tokens: int
    of_a_line: int
    texts: dict[int, str]
    lines: dict[int, str]


class Read(NamedTuple):
    """What a reader has seen of a response: numbers of its events, and the text of its deltas."""

    numbers: list[int]
    text: list[str]


def words(what: str, count: int) -> str:
    """Return a prompt whose words a simulated engine repeats, none of them twice."""
    return " ".join(f"{what}w{number}" for number in range(count))


def client(url: str) -> AsyncOpenAI:
    """Return OpenAI's client of one gateway."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False, timeout=60)
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http)


class Clients:
    """Clients of both gateways: what fails at one is tried at the other."""

    def __init__(self, gateways: Sequence[str]) -> None:
        self.each = [client(url) for url in gateways]
        self.tries: Counter[str] = Counter()

    def other(self, number: int) -> AsyncOpenAI:
        """Return the client whose turn it is."""
        return self.each[number % len(self.each)]

    async def read(self, identity: str, number: int, seen: Read) -> None:
        """Follow a response to its end; where the connection breaks, go on after the last event."""
        over = False
        while True:
            with contextlib.suppress(openai.APIError):
                stream = await self.other(number).responses.retrieve(
                    identity,
                    stream=True,
                    starting_after=seen.numbers[-1] if seen.numbers else openai.omit,
                )
                async for event in stream:
                    seen.numbers.append(event.sequence_number)
                    if event.type == "response.output_text.delta":
                        seen.text.append(event.delta)
                    over = event.type.removeprefix("response.") in ENDED
            if over:
                return
            self.tries["readers that came back"] += 1
            number += 1
            await asyncio.sleep(PAUSE)


def simulated(options: argparse.Namespace) -> Work:
    """Return the work for simulated engines, which repeat the words of a prompt."""
    texts = {number: words(f"r{number}", TOKENS) for number in range(options.responses)}
    lines = {number: words(f"l{number}", OF_A_LINE) for number in range(options.lines)}
    return Work(TOKENS, OF_A_LINE, texts, lines)


async def undisturbed(to: Clients, options: argparse.Namespace) -> Work:
    """Return the work for vLLM, with the answers that it gives while nothing is killed."""
    texts, lines = {}, {}
    for number in range(options.responses):
        answer = await to.each[0].responses.create(**asking(VLLM_TOKENS, told(number)), store=False)
        texts[number] = answer.output_text
    for number in range(options.lines):
        chat = await to.each[0].chat.completions.create(
            **line(number, VLLM_OF_A_LINE, told(number))
        )
        lines[number] = chat.choices[0].message.content or ""
    return Work(VLLM_TOKENS, VLLM_OF_A_LINE, texts, lines)


def told(number: int) -> str:
    """Return a prompt for vLLM, whose best next token is nearly always far ahead of the others."""
    return f"Write the numbers from {number + 1} to 300, separated by commas."


def asking(tokens: int, said: str) -> dict[str, Any]:
    """Return the arguments of a response."""
    return {"model": MODEL, "input": said, "max_output_tokens": tokens, "temperature": 0}


async def begin(to: Clients, folder: Path, work: Work, vllm: bool) -> tuple[list[str], str]:
    """Ask for the responses and the batch; return their ids."""
    file = folder / "batch.jsonl"
    with file.open("w") as output:
        for number, text in work.lines.items():
            each = {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": line(number, work.of_a_line, told(number) if vllm else text),
            }
            output.write(json.dumps(each) + "\n")
    made = await to.each[0].files.create(file=file, purpose="batch")
    batch = await to.each[0].batches.create(
        input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    asked = [
        to.other(number).responses.create(
            **asking(work.tokens, told(number) if vllm else text), background=True
        )
        for number, text in work.texts.items()
    ]
    return [each.id for each in await asyncio.gather(*asked)], batch.id


def line(number: int, tokens: int, said: str) -> dict[str, Any]:
    """Return the body of a line of the batch."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": said}],
        "max_tokens": tokens,
        "temperature": 0,
        "user": f"user-{number}",
    }


async def kill(cluster: Cluster) -> None:
    """Kill one after the other, each once everything serves again. Raise Failed."""
    for death in DEATHS:
        await asyncio.sleep(APART)
        if death == "everything":
            await asyncio.to_thread(cluster.kill_everything)
        else:
            cluster.kill(death)
        print(f"killed: {death}", file=sys.stderr)
        await asyncio.to_thread(cluster.settle)


async def ended(to: Clients, batch: str) -> openai.types.Batch:
    """Wait until the batch is over."""
    for number in range(int(PATIENCE / PAUSE)):
        with contextlib.suppress(openai.APIError):
            found = await to.other(number).batches.retrieve(batch)
            if found.status in OVER:
                return found
        await asyncio.sleep(PAUSE)
    raise Failed(f"the batch did not end within {PATIENCE:.0f} s")


async def judge(to: Clients, ids: Sequence[str], seen: Sequence[Read], work: Work) -> Counter[str]:
    """Count what became of the responses, as the second gateway has them, and of their readers."""
    count: Counter[str] = Counter()
    for number, identity in enumerate(ids):
        found = await to.each[1].responses.retrieve(identity)
        count[f"responses {found.status}"] += 1
        count["responses with the right text"] += (
            found.output_text.split() == work.texts[number].split()
        )
        numbers = seen[number].numbers
        count["readers with each event once"] += numbers == list(range(len(numbers)))
        count["readers with the same text"] += "".join(seen[number].text) == found.output_text
    return count


async def judge_batch(to: Clients, batch: openai.types.Batch, work: Work) -> Counter[str]:
    """Count the results of the batch's lines."""
    count: Counter[str] = Counter({f"batch {batch.status}": 1})
    assert batch.request_counts is not None
    count["lines counted as completed"] = batch.request_counts.completed
    results: Counter[str] = Counter()
    for file in (batch.output_file_id, batch.error_file_id):
        if file is None:
            continue
        content = (await to.each[1].files.content(file)).text
        for each in content.splitlines():
            result = json.loads(each)
            results[result["custom_id"]] += 1
            if result["error"] is not None or result["response"]["status_code"] != 200:
                count["lines with an error"] += 1
                continue
            said = result["response"]["body"]["choices"][0]["message"]["content"]
            right = work.lines[int(result["custom_id"].removeprefix("line-"))]
            count["lines with the right text"] += said.split() == right.split()
    count["lines with one result"] = sum(number == 1 for number in results.values())
    count["lines with several results"] = sum(number > 1 for number in results.values())
    count["lines without a result"] = len(work.lines) - len(results)
    return count


async def run(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Counter[str]:
    """Let everything happen once; return the counts. Raise Failed."""
    to = Clients(cluster.gateways)
    work = await undisturbed(to, options) if options.vllm else simulated(options)
    ids, batch = await begin(to, folder, work, options.vllm)
    seen = [Read([], []) for _ in ids]
    readers = [
        asyncio.create_task(to.read(identity, number + 1, seen[number]))
        for number, identity in enumerate(ids)
    ]
    if not options.calm:
        await kill(cluster)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*readers)
    over = await ended(to, batch)
    count = await judge(to, ids, seen, work)
    return count + await judge_batch(to, over, work) + to.tries


def main() -> None:
    """Run it, and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--responses", type=int, default=20, help="background responses [20]")
    parser.add_argument("--lines", type=int, default=1000, help="lines of the batch [1000]")
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    parser.add_argument("--vllm", action="store_true", help="on real vLLM, whose texts differ")
    folder_option(parser)
    options = parser.parse_args()
    print(headline(context()))
    fields = {"source": MODEL, "memory": "256MiB", "replicas": 2}
    wanted = Wanted(MODEL, fields)
    engine = [*SIMULATED, "--simulate-token", str(TOKEN)]
    if options.vllm:
        wanted, engine = Wanted(MODEL, two_replicas(), patience=900), []
    began = time.monotonic()
    arguments = ("--restart-limit", "1000")
    try:
        with (
            session("durable", options.folder) as folder,
            clusters.start(
                folder / "cluster", REPOSITORY, [wanted], engine=engine, arguments=arguments
            ) as cluster,
        ):
            count = asyncio.run(run(cluster, folder, options))
    except Failed as error:
        raise SystemExit(f"durable: {error}") from error
    for what, number in count.items():
        print(f"{what}: {number}")
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
