"""The pages that a browser shows at the end of a sign-in. Pure."""

from html import escape

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}
"""They load nothing, are not kept, and tell no other page their address."""

_STYLE = "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}"


def welcome(name: str, then: str) -> str:
    """Return the page of a person who has signed in, which leads on by itself.

    A redirection would count as one by the provider, whose pages may ask for nothing here.
    """
    to = escape(then)
    return _page(
        "Signed in",
        f"<p>You are signed in as {escape(name)}.</p><p><a href='{to}'>Go on</a></p>",
        f"<meta http-equiv='refresh' content='0; url={to}'>",
    )


def failure(text: str, login: str) -> str:
    """Return the page of a sign-in that failed."""
    again = f"<p><a href='{escape(login)}'>Sign in again</a></p>"
    return _page("Not signed in", f"<p>{escape(text)}</p>{again}")


def _page(title: str, body: str, head: str = "") -> str:
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style>{head}</head><body><h1>{title}</h1>{body}</body></html>"
    )
