"""An engine that has one answer to give, and writes it as vLLM does: token by token, or several
tokens in an event, with characters that end in a later token than they begin in.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

PROMPT = [101, 102, 103]
BEGIN = 1000  # the id of the answer's first token; that of the second is one more
OPEN = "\N{REPLACEMENT CHARACTER}"  # what a text ends with inside a character
END = 2  # the token that ends an answer by itself; it has no text

Grouping = Callable[[], int]
"""How many tokens the next event has."""


def one() -> int:
    return 1


class Engine:
    """`tokens` are the pieces of the answer's UTF-8; they need not end where characters do."""

    def __init__(self, tokens: list[bytes], created: int = 1) -> None:
        self.tokens = tokens
        self.created = created

    def stream(self, path: str, body: bytes, grouping: Grouping = one) -> list[bytes]:
        """The events of the answer to a request, or to its continuation."""
        request = json.loads(body)
        chat = path == "/v1/chat/completions"
        done = 0
        prompt = PROMPT
        if isinstance(request.get("prompt"), list):
            assert not chat
            prompt = request["prompt"]
            done = len(prompt) - len(PROMPT)
            assert prompt == [*PROMPT, *range(BEGIN, BEGIN + done)]
        limit = request.get("max_completion_tokens") if chat else None
        limit = request.get("max_tokens", None if chat else 16) if limit is None else limit
        steps, reason = self._steps(done, limit)
        return [
            event.encode() for event in self._events(request, prompt, chat, steps, reason, grouping)
        ]

    def detokenize(self, body: bytes) -> bytes:
        ids = json.loads(body)["tokens"]
        raw = b"".join(b"prompt " if i < BEGIN else self.tokens[i - BEGIN] for i in ids)
        return json.dumps({"prompt": raw.decode(errors="replace")}).encode()

    def _text(self, count: int) -> str:
        return b"".join(self.tokens[:count]).decode(errors="replace")

    def _steps(self, done: int, limit: int | None) -> tuple[list[tuple[int, str]], str]:
        """Each token that is left, with the text that it completes."""
        # vLLM gives no text while the whole ends inside a character; where its prompt does, the
        # first text that it gives holds the prompt too. Going on must not run into that.
        given = self._text(done)
        before = "the whole prompt " if given.endswith(OPEN) else ""
        given = "" if before else given
        steps = []
        for number in range(done, len(self.tokens)):
            whole = before + self._text(number + 1)
            text = "" if whole.endswith(OPEN) else whole[len(given) :]
            given += text
            steps.append((BEGIN + number, text))
        steps.append((END, ""))
        if limit is not None and limit < len(steps):
            return steps[:limit], "length"
        return steps, "stop"

    def _events(
        self,
        request: dict[str, Any],
        prompt: list[int],
        chat: bool,
        steps: list[tuple[int, str]],
        reason: str,
        grouping: Grouping,
    ) -> Iterator[str]:
        ids_wanted = bool(request.get("return_token_ids"))
        options = request.get("stream_options") or {}
        final = bool(options.get("include_usage"))
        always = final and bool(options.get("continuous_usage_stats"))
        told: list[int] | None = prompt if ids_wanted else None

        def usage(made: int, **more: None) -> dict[str, Any]:
            counts = {"prompt_tokens": len(prompt), "total_tokens": len(prompt) + made}
            return {**counts, "completion_tokens": made, **more}

        def chunk(choices: list[Any], usage: Any = None, **more: Any) -> str:
            kind = ("chatcmpl", "chat.completion.chunk") if chat else ("cmpl", "text_completion")
            head = {"id": f"{kind[0]}-{self.created}", "object": kind[1], "created": self.created}
            counted = {} if usage is None else {"usage": usage}
            data = {**head, "model": "m", "choices": choices, **counted, **more}
            return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"

        details = {"completion_tokens_details": None} if chat else {}
        if chat:
            delta = {"role": "assistant", "content": ""}
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            counted = usage(0, **details) if always else None
            yield chunk([choice], counted, prompt_token_ids=told, prompt_text=None)
        made = 0
        while made < len(steps):
            group = steps[made : made + grouping()]
            made += len(group)
            finish = reason if made == len(steps) else None
            text = "".join(text for _, text in group)
            ids = [number for number, _ in group] if ids_wanted else None
            choice = {"index": 0}
            choice |= {"delta": {"content": text}} if chat else {"text": text}
            choice |= {"logprobs": None, "finish_reason": finish}
            if finish or not chat:
                choice["stop_reason"] = None
            if not chat:
                choice["prompt_token_ids"], told = told, None
            choice["token_ids"] = ids
            fingerprint = {"system_fingerprint": "f"} if finish and not final else {}
            yield chunk([choice], usage(made, **details) if always else None, **fingerprint)
        if final:
            yield chunk([], usage(made), system_fingerprint="f")
        yield "data: [DONE]\n\n"
