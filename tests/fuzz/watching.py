"""Watches a gateway while it is fuzzed: its memory, and how another client is served."""

import asyncio
import time

import httpx
import psutil
from msgspec import Struct

from tests.integration.asking import CHAT, chat, prompt, words

EVERY = 0.05


class Watch(Struct):
    """Bytes of memory before, at the most and after; seconds of the other client's answers."""

    before: int = 0
    most: int = 0
    after: int = 0
    took: list[float] = []
    wrong: list[str] = []

    async def memory(self, process: psutil.Process) -> None:
        """Note the memory of a process, until it is cancelled."""
        self.before = self.most = process.memory_info().rss
        try:
            while True:
                await asyncio.sleep(EVERY)
                self.most = max(self.most, process.memory_info().rss)
        finally:
            self.after = process.memory_info().rss

    async def other(self, port: int) -> None:
        """Be another client, until it is cancelled: each answer must be right."""
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False
        ) as http:
            number = 0
            while True:
                number += 1
                began = time.monotonic()
                answer = await http.post(CHAT, json=chat("chat", prompt(number), max_tokens=3))
                self.took.append(time.monotonic() - began)
                if answer.status_code != 200:
                    self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
                elif answer.json()["choices"][0]["message"]["content"] != words(number, 3):
                    self.wrong.append(answer.text[:200])
                await asyncio.sleep(EVERY)

    def quantile(self, part: float) -> float:
        """Return the seconds within which this part of the other client's answers came."""
        took = sorted(self.took)
        return took[min(len(took) - 1, int(part * len(took)))] if took else 0.0
