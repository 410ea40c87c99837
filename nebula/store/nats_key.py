"""A private key of NATS's, which signs tokens."""

import os

import nkeys


class Key:
    """A private key of NATS's."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self._pair = nkeys.from_seed(bytearray(seed.encode()))

    @classmethod
    def new(cls, prefix: int) -> "Key":
        """Return a new random key."""
        return cls(nkeys.encode_seed(os.urandom(32), prefix).decode())

    @property
    def public(self) -> str:
        """The public key."""
        return bytes(self._pair.public_key).decode()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some data."""
        return bytes(self._pair.sign(data))
