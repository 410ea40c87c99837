"""A provider of OpenID Connect as the specifications have it, for the tests of single sign-on.

OpenID Connect Core and Discovery, OAuth 2.0 (RFC 6749) with PKCE (RFC 7636), and the device flow
(RFC 8628). Every visitor is signed in as `claims` says.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class Provider:
    """A provider in a thread of its own, with one web client and one public client."""

    def __init__(self) -> None:
        self.client, self.secret, self.device_client = "nebula", "s3cret", "nebula-cli"
        self.redirects: set[str] = set()
        self.claims: dict[str, Any] = {
            "sub": "dana-1",
            "email": "dana@example.com",
            "email_verified": True,
            "groups": ["ops"],
        }
        self.changes: dict[str, Any] = {}
        """Claims of ID tokens that are not as they should be; None leaves a claim out."""
        self.algorithm = "RS256"
        self.keys: list[Any] = []
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.answers: list[str] = ["authorization_pending"]
        """What the device flow answers before it signs in."""
        self._codes: dict[str, dict[str, str]] = {}
        self._devices: set[str] = set()
        self.rotate()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_port}/realm"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def rotate(self) -> None:
        """Sign with new keys from now on."""
        number = secrets.token_hex(4)
        self.keys = [
            RSAKey.generate_key(2048, {"kid": f"r-{number}", "use": "sig"}),
            ECKey.generate_key("P-256", {"kid": f"e-{number}", "use": "sig"}),
        ]

    def id_token(self, client: str, **more: Any) -> str:
        """Return an ID token for a client."""
        now = int(time.time())
        claims = {
            **{"iss": self.issuer, "aud": client, "iat": now, "exp": now + 300},
            **{"jti": secrets.token_hex(8), **self.claims, **more, **self.changes},
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.keys[0] if self.algorithm.startswith("RS") else self.keys[1]
        return jwt.encode({"alg": self.algorithm, "kid": key.kid}, claims, key, [self.algorithm])

    def discovery(self) -> dict[str, Any]:
        """Return the discovery document."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "device_authorization_endpoint": f"{self.issuer}/device",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def jwks(self) -> dict[str, Any]:
        """Return the public keys."""
        return dict(KeySet(self.keys).as_dict(private=False))

    def authorize(self, query: dict[str, str]) -> str:
        """Return where a browser is sent that wants to sign in; "" if the request is wrong."""
        wanted = {"client_id": self.client, "response_type": "code"}
        right = all(query.get(name) == value for name, value in wanted.items())
        right = right and query.get("redirect_uri") in self.redirects
        right = right and "openid" in query.get("scope", "").split() and bool(query.get("state"))
        if not right or query.get("code_challenge_method") != "S256":
            return ""
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        back = {"code": code, "state": query["state"], "iss": self.issuer}
        return f"{query['redirect_uri']}?{urlencode(back)}"

    def device(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Begin the device flow."""
        if form.get("client_id") != self.device_client:
            return 401, {"error": "invalid_client"}
        code = secrets.token_urlsafe(16)
        self._devices.add(code)
        page = f"{self.issuer}/activate"
        return 200, {
            "device_code": code,
            "user_code": "WDJB-MJHT",
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code=WDJB-MJHT",
            "expires_in": 300,
            "interval": 0.05,
        }

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Answer at the token endpoint."""
        if form.get("grant_type") == DEVICE:
            if form.get("client_id") != self.device_client:
                return 401, {"error": "invalid_client"}
            if form.get("device_code") not in self._devices:
                return 400, {"error": "invalid_grant"}
            if self.answers:
                return 400, {"error": self.answers.pop(0)}
            self._devices.discard(form["device_code"])
            return 200, self._tokens(self.device_client)
        basic = base64.b64encode(f"{self.client}:{self.secret}".encode()).decode()
        if authorization != f"Basic {basic}":
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") != "authorization_code":
            return 400, {"error": "unsupported_grant_type"}
        begun = self._codes.pop(form.get("code", ""), None)
        if begun is None or form.get("redirect_uri") != begun["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != begun["code_challenge"]:
            return 400, {"error": "invalid_grant", "error_description": "PKCE"}
        return 200, self._tokens(self.client, nonce=begun.get("nonce"))

    def _tokens(self, client: str, **more: Any) -> dict[str, Any]:
        token = self.id_token(client, **more)
        return {"access_token": "a", "token_type": "Bearer", "expires_in": 300, "id_token": token}


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = parts.path.removeprefix("/realm")
            provider.asked.append(path)
            if path == "/.well-known/openid-configuration":
                self._say(200, provider.discovery())
            elif path == "/keys":
                self._say(200, provider.jwks())
            elif path == "/authorize":
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                where = provider.authorize(query)
                self._say(302 if where else 400, {}, where)
            else:
                self._say(404, {})

        def do_POST(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/realm")
            provider.asked.append(path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            if path == "/device":
                self._say(*provider.device(form))
            elif path == "/token":
                self._say(*provider.token(form, self.headers.get("authorization", "")))
            else:
                self._say(404, {})

        def _say(self, status: int, told: dict[str, Any], location: str = "") -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            if location:
                self.send_header("location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    return Handler
