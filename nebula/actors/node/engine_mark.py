"""The mark by which a node knows its engines: variables in the environment of each. Pure.

A report in the log may name any process: only the process itself tells whose engine it is.
"""

from msgspec import Struct
from msgspec.structs import asdict

_VARIABLES = {
    "node": "NEBULA_NODE",
    "folder": "NEBULA_NODE_FOLDER",
    "replica": "NEBULA_REPLICA",
    "version": "NEBULA_VERSION",
    "port": "NEBULA_ENGINE_PORT",
    "cluster": "NEBULA_CLUSTER",
}
_LATER = ("port", "cluster")
"""What engines of older versions lack; also, a cluster has no id before it is founded."""


class EngineMark(Struct, frozen=True):
    """Whose engine a process is, as text.

    `version`: that of the plan that it was started for.
    """

    node: str
    folder: str
    replica: str
    version: str
    port: str = ""
    cluster: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables that an engine with this mark gets."""
        return {_VARIABLES[key]: value for key, value in asdict(self).items()}

    def objection(self, found: "EngineMark") -> str:
        """Return in words why a process with the mark `found` is not the engine; "" if it is."""
        told, expected = asdict(found), asdict(self)
        for key, value in expected.items():
            unknown = key in _LATER and not (told[key] and value)
            if not unknown and told[key] != value:
                return f"it belongs to another {key}"
        return ""


def read(environment: bytes) -> EngineMark | None:
    """Return the mark in the environment of a process, as Linux gives it; None without a mark."""
    found: dict[str, str] = {}
    for variable in environment.split(b"\0"):
        name, equals, value = variable.partition(b"=")
        key = _KEYS.get(name)
        if key is None or not equals:
            continue
        try:
            found[key] = value.decode()
        except UnicodeDecodeError:
            return None
    if not _KEYS.keys() - {_VARIABLES[key].encode() for key in (*found, *_LATER)}:
        return EngineMark(**found)
    return None


_KEYS = {name.encode(): key for key, name in _VARIABLES.items()}
