"""Finds secrets in options, variables and text, so that they are not shown. Pure.

There are four signs: a name as secrets have it (`HF_TOKEN`, `api-key`), the form of a well-known
kind of token (`hf_…`, `sk-…`), a user before the host of a URL, and such a name in its query, where
a single word (`?token=`, `?sig=`) is enough. The last words of a name decide, so that `max-tokens`,
`tokenizer` and `num_key_value_heads` are not secrets.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

MASK = "***"
"""The text that is shown in place of a secret."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_ALWAYS = ("password", "passwd", "passphrase", "secret", "credential")
"""A name with one of these within any word is a secret's name."""

_COMPOUND = re.compile(
    r"(?:api|auth|access|secret|private|account|encryption|signing|master|license|ssh|client)"
    r"(?:key|token)s?$|^(?:hf|gh|pat|access|bearer|refresh|id|session|auth)tokens?$|^(?:jwt|bearer)$"
)

_LAST = ("auth", "authorization", "cookie", "cookies", "dsn", "signature", "sig", "pat")

_PLAIN_TOKENS = frozenset((
    "added", "all", "audio", "bad", "batched", "begin", "boi", "bos", "bot", "cache", "cls",
    "context", "decode", "decoded", "decoder", "draft", "each", "end", "eoi", "eos", "eot",
    "expert", "extra", "first", "from", "generated", "image", "input", "last", "mask", "max", "min",
    "new", "next", "num", "observation", "output", "pad", "per", "placeholder", "prefill",
    "processed", "prompt", "sampled", "scheduled", "sep", "single", "special", "start", "stop",
    "target", "text", "think", "thinking", "tool", "top", "total", "unk", "video", "vision",
    "noise", "reasoning", "logprobs", "spec", "speculative", "queued",
))  # fmt: skip
"""Words before `token` that mean a language model's tokens."""

_PLAIN_PASSES = frozenset((
    "backward", "band", "by", "com", "each", "encom", "first", "forward", "high", "last", "low",
    "max", "min", "multi", "num", "old", "one", "over", "per", "second", "single", "sur", "tres",
    "two", "under",
))  # fmt: skip
"""Words that give `pass` or `pwd` another meaning, before it or joined with it."""

_PLAIN_KEYS = frozenset((
    "attention", "block", "cache", "column", "dict", "foreign", "group", "hash", "head", "host",
    "index", "k", "keyed", "label", "lookup", "mask", "metadata", "model", "num", "partition",
    "path", "primary", "public", "qk", "query", "routing", "scoped", "shard", "sort", "v",
    "value",
))  # fmt: skip
"""Words before `key` that mean keys which are not secret."""

_NAMED_BY_PAIR = frozenset(
    ("hf", "api", "auth", "access", "bearer", "refresh", "secret", "session")
)

# A text may be long, and made to be searched for long: no pattern looks further ahead than a bound
# from a place that the next search may start at.
_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}"
    r"|api_org_[A-Za-z0-9]{16,}"
    r"|sk-(?=[A-Za-z_-]{0,256}[0-9A-Z])[A-Za-z0-9_-]{8,}"
    r"|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{16,}"
    r"|nvapi-[A-Za-z0-9_-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}"
    r"|nbl_[A-Za-z0-9_-]{44,}"
    r"|S[ACNOUX][A-Z2-7]{56}"
    r"|eyJ[A-Za-z0-9_-]{8,1024}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^-]|-(?!----END))*(?:-----END [A-Z ]*KEY-----)?"
    r")"
)
_BEARER = re.compile(
    r"\b(Bearer|Basic)(\s+)(?=[^\s\"']*[0-9A-Z._~+/=-])[A-Za-z0-9._~+/=-]{8,}", re.I
)
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|api-key)(\s*:\s*)(?![\"'])[^\r\n\"']+",
    re.I,
)
_USER = re.compile(
    r"([A-Za-z0-9+.-]://)"
    r"(?:[^\s/?#\"'<>]*|[^\s/@:\"']+:(?!\d+(?:/|$))[^\s@\"']{1,1024})@"
)
_VALUE = (
    r"\\{1,64}[\"'](?:(?!\\{1,64}[\"'])[^\n])*(?:\\{1,64}[\"'])?"
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|[^\s&\"']+"
)
_QUOTE = re.compile(r"\\*[\"']")
_QUOTED_NAME = re.compile(rf"(?<!\\)(\\{{0,64}}[\"'])([A-Za-z_][\w.-]*)(\1\s*:\s*)({_VALUE})")
_QUERY = re.compile(r"((?:[?&#;]|\\u0026))([A-Za-z_][\w.-]*)(=)([^\s&#;\"'<>\\]+)")
_ASSIGNED = re.compile(rf"(?<![\w-])()(-{{0,2}}[A-Za-z_][\w.-]{{0,256}})(=)({_VALUE})")
_ARGUMENT = re.compile(rf"(?<![\w-])()(--[A-Za-z][\w.-]{{0,256}})([ \t]+)(?!-)({_VALUE})")
_ALONE = re.compile(r"^([ \t]*(?:- )?)([A-Za-z_][\w.-]*)(:[ \t]+)(\S+)[ \t]*$", re.MULTILINE)

_SUSPECT = (
    "://", "token", "key", "connection", "secret", "pass", "credential", "auth", "cookie", "jwt",
    "bearer", "basic", "dsn", "sig", "pwd", "pat", "hf_", "sk-", "gho_", "ghp_", "ghs_", "ghu_",
    "ghr_", "glpat", "xox", "akia", "asia", "aiza", "ya29", "nvapi", "npm_", "pypi-", "api_org_",
    "eyj", "nbl_",
)  # fmt: skip
_SEED = re.compile(r"S[ACNOUX][A-Z2-7]{56}")
"""A part of every secret's name or form: text without it needs no further check."""

_IN_QUERY = frozenset(("pass", "pwd"))
"""Names of secrets in a URL's query, in addition to the vague ones."""

_VAGUE = frozenset(("key", "keys", "token", "auth", "sig", "pat", "bearer"))
_NOTHING = frozenset(("none", "null", "true", "false", "name", "", MASK))
_SPECIAL_TOKEN = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_PATH = re.compile(r"~?/[\w./-]*")
_KEY_ID = re.compile(r"key:[A-Za-z0-9_-]{1,128}")
"""An API key by its id, as usage is told by key."""
_PLACES = frozenset(("command", "dir", "directory", "file", "folder", "path"))
"""Last words of names that say where a secret is, and not what it is."""

_BY_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}:[A-Z][A-Z0-9_]*(?![\w:-])")
"""What follows `--secret` in a command of Nebula: the name of a secret, and the variable."""


@lru_cache(maxsize=4096)
def secret_name(name: str) -> bool:
    """Return whether a name is that of a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _PLACES:
        return False
    if any(part in word for word in words for part in _ALWAYS):
        return True
    if words[-2:] == ["key", "id"]:
        return words[-3:-2] == ["access"]
    if words[-1] in ("value", "base", "header") and words[-2:-1] in (["key"], ["token"]):
        words = words[:-1]
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if (before, last) == ("connection", "string"):
        return True
    if _COMPOUND.search(last) or last in _LAST:
        return True
    if last == "token":
        return before not in _PLAIN_TOKENS
    if last == "tokens":
        return before in _NAMED_BY_PAIR
    if last in ("key", "keys"):
        return before not in _PLAIN_KEYS
    ending = last[-4:] if last.endswith("pass") else last[-3:]
    if ending not in ("pwd", "pass"):
        return False
    before = last.removesuffix(ending) or before
    return bool(before) and not before.endswith(tuple(_PLAIN_PASSES))


def is_secret(name: str, value: object) -> bool:
    """Return whether a value is a secret because of its name; null, a switch and MASK are not.

    A number is a secret only under a name like `password`: a password may be a number.
    """
    if value is None or isinstance(value, bool) or not secret_name(name):
        return False
    number = isinstance(value, int | float)
    if number or (isinstance(value, str) and value.replace(".", "", 1).isdecimal()):
        return any(part in name.lower() for part in _ALWAYS)
    if isinstance(value, str):
        return value.lower() not in _NOTHING and not _harmless(name, value)
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _harmless(name: str, value: str) -> bool:
    """Return whether a value is certainly none.

    Such are a special token of a model, where a file is, and the id of an API key.
    """
    if name.lower() == "key":
        return _KEY_ID.fullmatch(value) is not None
    if name.lower().endswith("credentials"):
        return _PATH.fullmatch(value) is not None
    return "token" in name.lower() and _SPECIAL_TOKEN.fullmatch(value) is not None


def suspect(text: str) -> bool:
    """Return whether a text may contain a secret; this is quick, and False is certain."""
    lower = text.lower()
    return any(part in lower for part in _SUSPECT) or _SEED.search(text) is not None


def masked(text: str) -> str:
    """Return a text with MASK in place of the secrets that are found in it."""
    if not suspect(text):
        return text
    text = _FORMS.sub(MASK, text)
    if "://" in text:
        text = _USER.sub(rf"\1{MASK}@", text)
    text = _QUERY.sub(_in_query, text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    for pattern in (_QUOTED_NAME, _ASSIGNED, _ARGUMENT, _ALONE):
        text = pattern.sub(_in_place, text)
    return text


def _in_place(match: re.Match[str]) -> str:
    before, name, sign, value = match.groups()
    if not _telling(name.lstrip("-"), value):
        return match[0]
    if name == "--secret" and _BY_NAME.match(value):
        return match[0]
    quote = _QUOTE.match(value)
    if quote is not None:
        return f"{before}{name}{sign}{quote[0]}{MASK}{quote[0]}"
    return f"{before}{name}{sign}{MASK}{value[len(value.rstrip(',;)]}')) :]}"


def _in_query(match: re.Match[str]) -> str:
    """Mask a parameter of a URL, where a single-word name and a number are secret too."""
    before, name, sign, value = match.groups()
    bare = value.rstrip(",;)]}")
    secret = secret_name(name) or name.lower() in _IN_QUERY
    if not secret or bare.rstrip(".").lower() in _NOTHING:
        return match[0]
    return f"{before}{name}{sign}{MASK}{value[len(bare) :]}"


def _telling(name: str, value: str) -> bool:
    """Return whether a value in a text is a secret; single words there have too many meanings."""
    if name.lower() in _VAGUE:
        return False
    return is_secret(name, _QUOTE.sub("", value).rstrip(",;)]}."))
