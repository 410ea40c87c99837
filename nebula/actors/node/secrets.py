"""Finds the values of secrets that load requests name: on this node, when an engine needs them."""

import asyncio
import contextlib
import os
import shlex
import stat
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

import psutil
from msgspec import Struct

from nebula.actors.node.secret_masks import Mask, masking
from nebula.events.state import Replica
from nebula.events.values import SecretReference, Variable

PREFIX = "NEBULA_SECRET_"
"""The beginning of the node's variables that hold secrets. Engines inherit none of Nebula's own."""

PATIENCE = 30.0
"""Seconds for the command to print a secret."""

MOST = 64 * 1024
"""Largest size of a secret in bytes; a variable can hold 128 KiB."""


REMEMBERED = 64
"""Secrets of a replica's engines that are remembered to be masked: the last ones."""


class SecretMissing(Exception):
    """A secret can't be had; the text says why and names it, without any value.

    `remedy`: what to do about it if another try would find no more; "" if one may.
    """

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self._remedy = remedy

    def told(self, *, again: bool) -> tuple[str, str]:
        """Return the reason, and what to do if no other start is tried; `again`: one is anyway."""
        if again and self._remedy:
            return f"{self}: {self._remedy}", ""
        return str(self), self._remedy


class SecretSources(Struct, frozen=True):
    """Where a node finds secrets, in this order.

    `folder`: a file for each, which only its owner may read. `variables`: the node's environment.
    `command`: a command that prints the secret whose name stands for `{name}`; "" for none.
    """

    folder: Path
    variables: Mapping[str, str]
    command: str = ""

    async def resolved(self, env: Mapping[str, Variable]) -> dict[str, str]:
        """Return the variables whose values are secrets, with the values. Raise SecretMissing."""
        found: dict[str, str] = {}
        for variable, value in env.items():
            if isinstance(value, SecretReference):
                found[variable] = await self.value(value.secret)
        return found

    async def value(self, name: str) -> str:
        """Return the value of a secret. Raise SecretMissing."""
        value = await asyncio.to_thread(self._of_file, name)
        if value is None:
            value = self.variables.get(variable(name))
        if value is None and self.command:
            value = await self._of_command(name)
        if value is None:
            way = "" if self.command else f", or set {variable(name)} for the node"
            raise SecretMissing(
                f"this node has no secret {name!r}",
                f"write it to {self.folder / name}, readable by the node's user only{way}, "
                "then ask for it again",
            )
        problem = "is empty" if not value else "holds a NUL" if "\0" in value else ""
        if problem or len(value.encode()) > MOST:
            text = f"the secret {name!r} of this node {problem or 'is larger than 64 KiB'}"
            raise SecretMissing(text, "replace it, then ask for it again")
        return value

    def _of_file(self, name: str) -> str | None:
        """Return the content of a secret's file; None if there is no such file."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(MOST + 2)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SecretMissing(
                f"the secret {name!r} can't be read from {path}: {error.strerror}",
                "make it a file that the node's user can read, then ask for it again",
            ) from None
        if stat.S_IMODE(mode) & 0o077:
            raise SecretMissing(
                f"other users may read the secret {name!r} in {path}",
                f"`chmod 600 {shlex.quote(str(path))}`, then ask for it again",
            )
        return _text(name, data)

    async def _of_command(self, name: str) -> str | None:
        """Return what the command prints; it may do so the next time if it fails now."""
        line = [word.replace("{name}", name) for word in shlex.split(self.command)]
        what = f"the command for the secret {name!r}"
        try:
            process = await asyncio.create_subprocess_exec(
                *line, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise SecretMissing(f"{what} can't be run: {error.strerror}") from None
        try:
            async with asyncio.timeout(PATIENCE):
                data, _ = await process.communicate()
        except TimeoutError:
            raise SecretMissing(f"{what} has not ended within {PATIENCE:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise SecretMissing(
                f"{what} ended with exit code {process.returncode}; what it says is in the "
                "node's own output"
            )
        return _text(name, data)


def variable(name: str) -> str:
    """Return the node's variable that may hold a secret: `hf-token` -> NEBULA_SECRET_HF_TOKEN."""
    return PREFIX + name.upper().replace("-", "_")


def _text(name: str, data: bytes) -> str:
    """Return a value without the line break at its end. Raise SecretMissing."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise SecretMissing(
            f"the secret {name!r} of this node is not UTF-8", "replace it, then ask for it again"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


class EngineSecrets:
    """What a node's engines were given, so that it is masked in what they write."""

    def __init__(self, sources: SecretSources) -> None:
        self._sources = sources
        self._values: dict[str, dict[str, None]] = {}
        self._masks: dict[str, Mask] = {}

    async def give(self, replica: Replica) -> dict[str, str]:
        """Return the variables of a replica's engine that are secrets. Raise SecretMissing.

        What its earlier engines were given stays masked: its log has their lines, too.
        """
        env = replica.launch.env if replica.launch is not None else {}
        values = await self._sources.resolved(env)
        self._add(replica.id, values.values())
        return values

    async def mask(self, replica: Replica) -> Mask:
        """Return what masks the secrets of a replica's engines in a text.

        An engine that an earlier process of this node has started may have got others than there
        are now.
        """
        if replica.id not in self._masks:
            env = replica.launch.env if replica.launch is not None else {}
            values = _given(replica.engine.pid, env) if replica.engine is not None else set()
            for value in env.values():
                if isinstance(value, SecretReference):
                    with contextlib.suppress(SecretMissing):
                        values.add(await self._sources.value(value.secret))
            self._add(replica.id, values)
        return self._masks[replica.id]

    def _add(self, replica: str, values: Iterable[str]) -> None:
        known = self._values.setdefault(replica, {})
        for value in values:
            known.pop(value, None)
            known[value] = None
        while len(known) > REMEMBERED:
            del known[next(iter(known))]
        self._masks[replica] = masking(known)

    def forget(self, kept: Set[str]) -> None:
        """Forget what the engines of other replicas were given."""
        for replica in self._masks.keys() - kept:
            del self._masks[replica], self._values[replica]


def _given(pid: int, env: Mapping[str, Variable]) -> set[str]:
    """Return the secrets in the environment of a running process; none if it can't be read."""
    try:
        variables = psutil.Process(pid).environ()
    except psutil.Error:
        return set()
    names = {name for name, value in env.items() if isinstance(value, SecretReference)}
    return {variables[name] for name in names & variables.keys()}
