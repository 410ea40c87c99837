"""The counters and histograms of a simulated engine, in the names and buckets of vLLM 0.32.

Pure, and no more of them than boards ask for: the text of all is made with every heartbeat.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)

_REASONS = ("stop", "length", "abort", "error", "repetition")
_KEPT = 4096
"""Ended requests that are kept at most before they are counted."""


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe many values: the library's functions look at each, not a line of Python."""
        ordered = sorted(values)
        ends = [bisect_right(ordered, bound) for bound in self._bounds]
        for number, (start, end) in enumerate(pairwise((0, *ends, len(ordered)))):
            self._counts[number] += end - start
        self._sum += sum(values)

    def lines(self, name: str, labels: str) -> Iterator[str]:
        count = 0
        for bound, each in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            count += each
            yield f'{name}_bucket{{{labels},le="{bound}"}} {float(count)}\n'
        yield f"{name}_count{{{labels}}} {float(count)}\n"
        yield f"{name}_sum{{{labels}}} {self._sum}\n"


class Metrics:
    """What one engine has counted since it began. All times are seconds.

    `generated`: tokens, as its steps make them. What is told of answers and requests is kept as it
    is, and counted together: one by one it would cost a sixth of an answer without delays.
    """

    def __init__(self, max_model_len: int) -> None:
        lengths = _lengths(max_model_len)
        self.generated = self._prompt = 0
        self._answers: list[tuple[int, int, str, float, float]] = []
        self._ended: list[tuple[float, float]] = []
        self._succeeded = Counter(dict.fromkeys(_REASONS, 0))
        self._first_token = _Histogram(_FIRST_TOKEN)
        self._between_tokens = _Histogram(_BETWEEN_TOKENS)
        self._whole = _Histogram(_LATENCY)
        self._queued = _Histogram(_LATENCY)
        self._prefill = _Histogram(_LATENCY)
        self._decode = _Histogram(_LATENCY)
        self._prompts = _Histogram(lengths)
        self._generations = _Histogram(lengths)

    def answered(
        self, prompt: int, generated: int, reason: str, prefill: float, decode: float
    ) -> None:
        """Count an answer of tokens: how long the first took, and all after it together."""
        self._answers.append((prompt, generated, reason, prefill, decode))

    def finished(self, queued: float, whole: float) -> None:
        """Count a request that has ended, whatever it asked for."""
        self._ended.append((queued, whole))
        if len(self._ended) >= _KEPT:
            self._count()

    def _count(self) -> None:
        """Count what was kept."""
        if self._answers:
            prompts, generations, reasons, prefills, decodes = zip(*self._answers, strict=True)
            self._prompt += sum(prompts)
            self._prompts.observe_all(prompts)
            self._generations.observe_all(generations)
            self._succeeded.update(reasons)
            self._first_token.observe_all(prefills)
            self._prefill.observe_all(prefills)
            self._decode.observe_all(decodes)
            for generated, decode in zip(generations, decodes, strict=True):
                if generated > 1:
                    self._between_tokens.observe(decode / (generated - 1), generated - 1)
        if self._ended:
            queued, whole = zip(*self._ended, strict=True)
            self._queued.observe_all(queued)
            self._whole.observe_all(whole)
        self._answers.clear()
        self._ended.clear()

    def text(self, model: str) -> str:
        """Return all of them in Prometheus's text format; `model`: the label, quoted."""
        self._count()
        labels = f'engine="0",model_name={model}'
        lines = []
        for name, value in self._counters().items():
            lines.append(f"# TYPE vllm:{name}_total counter\n")
            lines.append(f"vllm:{name}_total{{{labels}}} {float(value)}\n")
        lines.append("# TYPE vllm:request_success_total counter\n")
        for reason, count in self._succeeded.items():
            named = f'engine="0",finished_reason="{reason}",model_name={model}'
            lines.append(f"vllm:request_success_total{{{named}}} {float(count)}\n")
        for name, histogram in self._histograms().items():
            lines.append(f"# TYPE vllm:{name} histogram\n")
            lines.extend(histogram.lines(f"vllm:{name}", labels))
        return "".join(lines)

    def _counters(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt,
            "generation_tokens": self.generated,
            "num_preemptions": 0,
            "prefix_cache_queries": self._prompt,
            "prefix_cache_hits": 0,
        }

    def _histograms(self) -> dict[str, _Histogram]:
        return {
            "time_to_first_token_seconds": self._first_token,
            "inter_token_latency_seconds": self._between_tokens,
            "e2e_request_latency_seconds": self._whole,
            "request_queue_time_seconds": self._queued,
            "request_prefill_time_seconds": self._prefill,
            "request_decode_time_seconds": self._decode,
            "request_prompt_tokens": self._prompts,
            "request_generation_tokens": self._generations,
        }


def _lengths(most: int) -> tuple[float, ...]:
    """Return vLLM's buckets of lengths: 1, 2 and 5 times each power of ten, up to the longest."""
    found: list[float] = []
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power > most:
                return tuple(found)
            found.append(float(step * power))
        power *= 10
