"""Errors of a sign-in that proves nothing."""


class NotSignedIn(Exception):
    """An ID token proves nothing; the text says why."""


class UnknownKey(NotSignedIn):
    """No key of the provider has the id that an ID token names."""
