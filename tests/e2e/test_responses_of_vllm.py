"""OpenAI's own programs for responses, background mode and conversations, on real vLLM.

The programs stand as in OpenAI's guides; an alias has the name of their model. As the demo's model
seldom ends by itself, each answer is cut to a length that its context has room for.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import openai
import psutil
import pytest
from openai.types.responses import FunctionToolParam, Response

from tests.e2e.demo_cluster import CHAT, DemoCluster

NAME = "gpt-5"

PREVIOUS = """
from openai import OpenAI
client = OpenAI()

response = client.responses.create(
    model="gpt-5",
    input="tell me a joke",
)
print(response.output_text)

second_response = client.responses.create(
    model="gpt-5",
    previous_response_id=response.id,
    input=[{"role": "user", "content": "explain why this is funny."}],
)
print(second_response.output_text)
"""

CONVERSATION = """
from openai import OpenAI
client = OpenAI()

conversation = client.conversations.create()

response = client.responses.create(
  model="gpt-5",
  input=[{"role": "user", "content": "What are the 5 Ds of dodgeball?"}],
  conversation=conversation.id
)
print(response.output_text)

response = client.responses.create(
  model="gpt-5",
  input=[{"role": "user", "content": "And which is the first?"}],
  conversation=conversation.id
)
print(response.output_text)
print(len(client.conversations.items.list(conversation.id).data), "items")
"""

BACKGROUND = """
from openai import OpenAI
from time import sleep

client = OpenAI()

resp = client.responses.create(
  model="gpt-5",
  input="Write a very long novel about otters in space.",
  background=True,
)

while resp.status in {"queued", "in_progress"}:
  print(f"Current status: {resp.status}")
  sleep(2)
  resp = client.responses.retrieve(resp.id)

print(f"Final status: {resp.status}\\nOutput:\\n{resp.output_text}")
"""

CANCEL = """
from openai import OpenAI
client = OpenAI()

resp = client.responses.create(
  model="gpt-5",
  input="Write a very long novel about otters in space.",
  background=True,
)
resp = client.responses.cancel(resp.id)

print(resp.status)
"""


@pytest.fixture(scope="module", autouse=True)
def named(cluster: DemoCluster) -> Iterator[None]:
    """An alias of the chat model, by which OpenAI's programs name theirs."""
    made = cluster.http.put(f"/admin/aliases/{NAME}", json={"targets": [{"model": CHAT}]})
    assert made.status_code == 202, made.text
    cluster.until(
        lambda: cluster.http.get(f"/v1/models/{NAME}").status_code == 200, "the alias is known"
    )
    yield
    cluster.http.delete(f"/admin/aliases/{NAME}")


def run(cluster: DemoCluster, program: str) -> str:
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{cluster.port}/v1",
        "OPENAI_API_KEY": "none",
    }
    short = program.replace('model="gpt-5",', 'model="gpt-5", max_output_tokens=60,')
    line = [sys.executable, "-c", short]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", [PREVIOUS, CONVERSATION], ids=["previous", "conversation"])
def test_turns_follow_each_other(program: str, cluster: DemoCluster) -> None:
    said = run(cluster, program)
    assert said.strip()
    assert program is PREVIOUS or said.endswith("4 items\n")


def test_a_response_in_the_background_is_polled_to_its_end(cluster: DemoCluster) -> None:
    said = run(cluster, BACKGROUND)
    assert said.startswith("Current status: queued")
    status, _, text = said.partition("Final status: ")[2].partition("\nOutput:\n")
    assert status in ("completed", "incomplete")
    assert text.strip()


def test_a_response_in_the_background_is_cancelled(cluster: DemoCluster) -> None:
    assert run(cluster, CANCEL) == "cancelled\n"


def asked(client: openai.OpenAI, **fields: object) -> Response:
    made: Response = client.responses.create(
        model=CHAT,
        input="Tell me a long story about a fox.",
        background=True,
        max_output_tokens=150,
        temperature=0.8,
        extra_body={"ignore_eos": True, **fields},
    )
    return made


def over(client: openai.OpenAI, identity: str) -> Response:
    while True:
        found = client.responses.retrieve(identity)
        if found.status not in ("queued", "in_progress"):
            return found
        time.sleep(0.5)


def test_a_stream_is_read_on_after_its_client_lost_it(cluster: DemoCluster) -> None:
    client = cluster.client
    identity = asked(client).id
    with client.responses.retrieve(identity, stream=True) as stream:
        seen = []
        for event in stream:
            seen.append(event)
            if len(seen) == 8:
                break
    with client.responses.retrieve(identity, stream=True, starting_after=7) as stream:
        seen += list(stream)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    said = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert said == over(client, identity).output_text


def test_an_engine_that_dies_amid_a_response_leaves_no_trace_in_it(cluster: DemoCluster) -> None:
    client = cluster.client
    undisturbed = over(client, asked(client, seed=7).id)
    identity = asked(client, seed=7).id
    with client.responses.retrieve(identity, stream=True) as stream:
        events = []
        killed = False
        for event in stream:
            events.append(event)
            if not killed and event.type == "response.output_text.delta" and len(events) > 12:
                killed = True
                for replica, pid in cluster.engine_pids().items():
                    if replica.startswith(CHAT):
                        psutil.Process(pid).kill()
    assert killed
    assert [event.sequence_number for event in events] == list(range(len(events)))
    found = over(client, identity)
    assert found.error is None
    (item,) = found.output
    said = [e for e in events if e.type == "response.output_text.delta" and e.item_id == item.id]
    assert "".join(event.delta for event in said) == found.output_text
    assert found.output_text == undisturbed.output_text
    cluster.until(lambda: cluster.serves(CHAT), "the engine is back")


FUNCTION: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Return the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "background"])
def test_an_agent_sends_only_what_is_new(cluster: DemoCluster, background: bool) -> None:
    """Its calls and their outputs follow each other by ids, as agents of OpenAI's kit do."""
    client = cluster.client

    def turn(**fields: object) -> Response:
        made: Response = client.responses.create(
            model=CHAT,
            tools=[FUNCTION],
            temperature=0,
            background=background,
            extra_body=fields,
        )
        return over(client, made.id) if background else made

    asking = turn(
        input="What is the weather in Paris?", tool_choice="required", max_output_tokens=100
    )
    (call,) = [item for item in asking.output if item.type == "function_call"]
    answer = turn(
        input=[
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": "sunny, 21 degrees",
            }
        ],
        previous_response_id=asking.id,
        tool_choice="none",
        max_output_tokens=8,
    )
    assert answer.output_text
    assert asking.usage is not None
    assert answer.usage is not None
    assert answer.usage.input_tokens > asking.usage.input_tokens


def test_a_history_that_is_too_long_fails_in_the_engines_words(cluster: DemoCluster) -> None:
    made = cluster.client.responses.create(
        model=CHAT, input="def f(x): return x\n" * 10_000, background=True
    )
    found = over(cluster.client, made.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "invalid_prompt"
    assert "maximum context length is 2048" in found.error.message
