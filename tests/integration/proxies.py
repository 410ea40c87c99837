"""nginx and haproxy as they come, before a gateway: how tests start and end them.

`make test` unpacks them into .venv/proxies where the machine has none (tests/install_packages.sh).
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nebula.store.server import die_with_parent
from tests.ports import free_port

PATIENCE = 10.0
_UNPACKED = Path(sys.prefix) / "proxies"

_NGINX = """
{user}
daemon off;
master_process off;
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream gateway {{ server 127.0.0.1:{gateway}; {upstream} }}
  server {{
    listen 127.0.0.1:{port};
    {server}
    location / {{ proxy_pass http://127.0.0.1:{gateway}; {location} }}
  }}
}}
"""

_HAPROXY = """
global
    maxconn 200
defaults
    mode http
    timeout connect 5000
    timeout client {timeout}
    timeout server {timeout}
frontend front
    bind 127.0.0.1:{port}
    {front}
    default_backend gateway
backend gateway
    server gateway 127.0.0.1:{gateway}
"""


def _binary(name: str) -> str:
    found = shutil.which(name, path=f"{_UNPACKED}/usr/sbin:/usr/sbin:{os.environ['PATH']}")
    assert found, f"{name} is not here: `make install-proxies` unpacks it into .venv"
    return found


@contextlib.contextmanager
def nginx(
    folder: Path, gateway: int, *, location: str = "", server: str = "", upstream: str = ""
) -> Iterator[int]:
    """Run nginx with its own defaults before a gateway's port, and yield its port."""
    port = free_port()
    folder = folder / f"nginx-{port}"
    folder.mkdir(parents=True)
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            gateway=gateway,
            port=port,
            location=location,
            server=server,
            upstream=upstream,
        )
    )
    line = [_binary("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with _running(line, folder, port):
        yield port


@contextlib.contextmanager
def haproxy(folder: Path, gateway: int, *, front: str = "", timeout: int = 50_000) -> Iterator[int]:
    """Run haproxy before a gateway's port, and yield its port.

    `timeout`: milliseconds of silence that it bears, by default as Debian has it.
    """
    port = free_port()
    folder = folder / f"haproxy-{port}"
    folder.mkdir(parents=True)
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(gateway=gateway, port=port, front=front, timeout=timeout))
    with _running([_binary("haproxy"), "-db", "-f", str(config)], folder, port):
        yield port


@contextlib.contextmanager
def _running(line: list[str], folder: Path, port: int) -> Iterator[None]:
    libraries = ":".join(str(path) for path in (_UNPACKED / "usr/lib").glob("*-linux-gnu"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            preexec_fn=die_with_parent,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            said = (folder / "log").read_text(errors="replace")
            assert process.poll() is None, f"{line[0]} has ended: {said}"
            if time.monotonic() > deadline:
                raise AssertionError(f"{line[0]} does not listen: {said}")
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()
