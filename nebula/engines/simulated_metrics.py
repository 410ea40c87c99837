"""The counters and histograms of a simulated engine, in the names and buckets of vLLM 0.32.

Pure, and no more of them than boards ask for: the text of all is made with every heartbeat.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

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


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str, labels: str) -> Iterator[str]:
        count = 0
        for bound, each in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            count += each
            yield f'{name}_bucket{{{labels},le="{bound}"}} {float(count)}\n'
        yield f"{name}_count{{{labels}}} {float(count)}\n"
        yield f"{name}_sum{{{labels}}} {self._sum}\n"


class Metrics:
    """What one engine has counted since it began. All times are seconds.

    `prompt`, `generated`: tokens, as its steps make them.
    """

    def __init__(self, max_model_len: int) -> None:
        lengths = _lengths(max_model_len)
        self.prompt = self.generated = 0
        self._succeeded = dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
        self._first_token = _Histogram(_FIRST_TOKEN)
        self._between_tokens = _Histogram(_BETWEEN_TOKENS)
        self._whole = _Histogram(_LATENCY)
        self._queued = _Histogram(_LATENCY)
        self._prefill = _Histogram(_LATENCY)
        self._decode = _Histogram(_LATENCY)
        self._prompts = _Histogram(lengths)
        self._generations = _Histogram(lengths)

    def answered(
        self, prompt: int, generated: int, reason: str, *, prefill: float, decode: float
    ) -> None:
        """Count an answer of tokens: how long the first took, and all after it together."""
        self._prompts.observe(prompt)
        self._generations.observe(generated)
        self._first_token.observe(prefill)
        self._prefill.observe(prefill)
        self._decode.observe(decode)
        if generated > 1:
            self._between_tokens.observe(decode / (generated - 1), generated - 1)
        self._succeeded[reason] += 1

    def finished(self, *, queued: float, whole: float) -> None:
        """Count a request that has ended, whatever it asked for."""
        self._queued.observe(queued)
        self._whole.observe(whole)

    def text(self, model: str) -> str:
        """Return all of them in Prometheus's text format; `model`: the label, quoted."""
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
            "prompt_tokens": self.prompt,
            "generation_tokens": self.generated,
            "num_preemptions": 0,
            "prefix_cache_queries": self.prompt,
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
