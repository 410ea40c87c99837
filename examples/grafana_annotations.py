"""Write the events that `nebula events --json` prints into Grafana, as annotations.

    nebula events --follow --json --type NodeLost | python3 examples/grafana_annotations.py http://127.0.0.1:3000

GRAFANA_TOKEN has the token of a service account that may write annotations.
"""

import json
import os
import sys
import urllib.request
from datetime import datetime


def annotation(event: dict[str, str]) -> dict[str, object]:
    """Return what Grafana shows of an event."""
    return {
        "time": int(datetime.fromisoformat(event["time"]).timestamp() * 1000),
        "tags": ["nebula", event["type"], event["id"]],
        "text": f"{event['id']} {event['text']} (nebula why {event['seq']})",
    }


def main(grafana: str) -> None:
    """Send each event as it comes."""
    headers = {
        "Authorization": f"Bearer {os.environ['GRAFANA_TOKEN']}",
        "Content-Type": "application/json",
    }
    for line in sys.stdin:
        body = json.dumps(annotation(json.loads(line))).encode()
        request = urllib.request.Request(f"{grafana}/api/annotations", body, headers)
        with urllib.request.urlopen(request, timeout=30):
            pass


if __name__ == "__main__":
    main(sys.argv[1])
