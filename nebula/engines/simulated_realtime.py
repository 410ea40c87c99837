"""Realtime sessions of a simulated engine: each chunk of sound becomes words as it comes.

The events are those of vLLM 0.32 (``vllm/entrypoints/speech_to_text/realtime``): ``session.update``
names the model, ``input_audio_buffer.append`` brings sound, ``commit`` starts a transcription, and
``commit`` with ``final`` ends it. Chunks that come before a commit are kept, as in vLLM.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
import uuid
from typing import Any

from nebula.engines.simulated_core import Core, log
from nebula.engines.simulated_http import Receive, Refusal, Send
from nebula.engines.simulated_speech import transcript


class RealtimeSession:
    """One WebSocket of ASGI."""

    def __init__(self, core: Core, receive: Receive, send: Send) -> None:
        self._core = core
        self._receive = receive
        self._send = send
        self._sound: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._validated = False
        self._generation: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Hold the session until its client leaves."""
        core = self._core
        await self._receive()
        await self._send({"type": "websocket.accept"})
        core.running += 1
        try:
            head = {"id": f"sess-{uuid.uuid4().hex}", "created": int(time.time())}
            await self._say("session.created", **head)
            while (message := await self._receive())["type"] == "websocket.receive":
                try:
                    await self._take(json.loads(message.get("text") or ""))
                except json.JSONDecodeError:
                    await self._fail("Invalid JSON", "invalid_json")
        except OSError:
            log.info("a session has lost its client")
        finally:
            core.running -= 1
            core.finished += 1
            if self._generation is not None:
                self._generation.cancel()

    async def _take(self, event: Any) -> None:
        match event.get("type") if isinstance(event, dict) else None:
            case "session.update":
                await self._update(event.get("model"))
            case "input_audio_buffer.append":
                await self._append(event.get("audio"))
            case "input_audio_buffer.commit" if not self._validated:
                text = "Model not validated. Make sure to validate the model by sending a"
                await self._fail(f"{text} session.update event.", "model_not_validated")
            case "input_audio_buffer.commit" if event.get("final"):
                self._sound.put_nowait(None)
            case "input_audio_buffer.commit":
                if self._generation is None or self._generation.done():
                    self._generation = asyncio.create_task(self._generate())
            case kind:
                await self._fail(f"Unknown event type: {kind}", "unknown_event")

    async def _update(self, model: Any) -> None:
        if model is None:
            await self._fail("Missing required field: model", "invalid_event")
            return
        try:
            self._core.resolve(str(model))
        except Refusal:
            await self._fail(f"The model `{model}` does not exist.", "model_not_found")
        else:
            self._validated = True

    async def _append(self, audio: Any) -> None:
        try:
            sound = base64.b64decode(audio)
        except (TypeError, ValueError, binascii.Error):
            sound = b""
        if not sound:
            await self._fail("Invalid audio data", "invalid_audio")
            return
        self._sound.put_nowait(sound)

    async def _generate(self) -> None:
        said, tokens = [], 0
        while (sound := await self._sound.get()) is not None:
            prompt = transcript("transcribe", sound)
            text = " ".join(prompt.words) + " "
            await asyncio.sleep(self._core.token * len(prompt.words))
            said.append(text)
            tokens += len(prompt.words)
            await self._say("transcription.delta", delta=text)
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        await self._say("transcription.done", text="".join(said), usage=usage)

    async def _say(self, kind: str, **fields: Any) -> None:
        text = json.dumps({"type": kind, **fields}, separators=(",", ":"))
        await self._send({"type": "websocket.send", "text": text})

    async def _fail(self, text: str, code: str) -> None:
        await self._say("error", error=text, code=code)


async def refuse(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket at a path that has none, as vLLM's framework does: with 403."""
    await receive()
    await send({"type": "websocket.close", "code": 1000, "reason": ""})
