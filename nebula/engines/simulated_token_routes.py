"""The paths that every simulated engine has for its tokens."""

from __future__ import annotations

import msgspec

from nebula.engines.simulated_core import Core
from nebula.engines.simulated_http import Exchange, Refusal, Routes, encode, invalid
from nebula.engines.simulated_requests import Message, ids_of_chat
from nebula.engines.simulated_tokens import REPEATED, ids_of, text_of


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /tokenize: a text, or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    return_token_strs: bool | None = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    def ids(self) -> list[int]:
        """The token ids. Raise Refusal."""
        if self.messages is not None:  # vLLM looks at the messages where there are both
            if self.continue_final_message and self.add_generation_prompt:
                text = "Cannot set both `continue_final_message` and `add_generation_prompt` to"
                raise Refusal(400, f"{text} True.", "BadRequestError")
            return ids_of_chat(self.messages)
        if self.prompt is None:
            raise invalid("body.prompt", "Field required", "missing")
        return ids_of(self.prompt.split(), REPEATED)


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None

    def text(self) -> str:
        """The text. Raise Refusal."""
        for index, token in enumerate(self.tokens):
            if token < 0:
                said = "Input should be greater than or equal to 0"
                raise invalid(f"body.tokens.{index}", said, "greater_than_equal")
        return text_of(self.tokens)


_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)


class TokenRoutes:
    """The tokenizer of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> Routes:
        """Return what vLLM registers for every model."""
        return {
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }

    async def _tokenize(self, exchange: Exchange) -> None:
        request = await exchange.read(_tokenize)
        ids = request.ids()
        self._core.resolve(request.model)
        answer = {
            "count": len(ids),
            "max_model_len": self._core.settings.max_model_len,
            "tokens": ids,
            "token_strs": [text_of([each]) for each in ids] if request.return_token_strs else None,
        }
        await exchange.reply(encode(answer))

    async def _detokenize(self, exchange: Exchange) -> None:
        request = await exchange.read(_detokenize)
        text = request.text()
        self._core.resolve(request.model)
        await exchange.reply(encode({"prompt": text}))
