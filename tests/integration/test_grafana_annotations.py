"""The example that writes events into Grafana sends what Grafana's API asks for."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_events_of_a_log_become_annotations() -> None:
    sent: list[tuple[str, str, dict[str, Any]]] = []

    class Grafana(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Grafana)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        log = ROOT / "tests" / "corpus" / "lost-node.jsonl"
        line = [sys.executable, "-m", "nebula.cli.main", "events", "--log", str(log), "--json"]
        events = subprocess.run(
            [*line, "--type", "NodeLost"], stdout=subprocess.PIPE, check=True
        ).stdout
        script = [sys.executable, str(ROOT / "examples" / "grafana_annotations.py")]
        subprocess.run(
            [*script, f"http://127.0.0.1:{server.server_port}"],
            input=events,
            env={"GRAFANA_TOKEN": "secret"},
            check=True,
        )
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    ((path, authorization, annotation),) = sent
    assert (path, authorization) == ("/api/annotations", "Bearer secret")
    (event,) = (json.loads(each) for each in events.splitlines())
    assert annotation["tags"] == ["nebula", "NodeLost", event["id"]]
    assert 1_795_000_000_000 < annotation["time"] < 1_796_000_000_000, "milliseconds"
    assert event["text"] in annotation["text"]
