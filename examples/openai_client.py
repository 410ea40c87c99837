"""The demo with OpenAI's own client: chat both ways, embeddings, an adapter beside its base."""

import math
import sys

import openai

client = openai.OpenAI(
    base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1", api_key="none"
)
CHAT, ADAPTER, EMBEDDING = "smollm2-135m-instruct", "nebula-adapter", "all-minilm-l6-v2"


def chat(model: str, question: str) -> str | None:
    """Ask a model, and wait for its whole answer."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=40,
    )
    return answer.choices[0].message.content


def likeness(a: list[float], b: list[float]) -> float:
    """Return the cosine of two vectors."""
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


print("whole:    ", chat(CHAT, "What is the capital of France?"))
print("streamed: ", end=" ", flush=True)
for chunk in client.chat.completions.create(
    model=CHAT,
    messages=[{"role": "user", "content": "What is the capital of France?"}],
    temperature=0,
    stream=True,
):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print("\nbase:     ", chat(CHAT, "What is Nebula?"))
print("adapter:  ", chat(ADAPTER, "What is Nebula?"))
texts = ["a cat", "a kitten", "a tax form"]
cat, kitten, form = (
    item.embedding for item in client.embeddings.create(model=EMBEDDING, input=texts).data
)
print(f"embedding: {len(cat)} numbers; cat/kitten {likeness(cat, kitten):.2f}, ", end="")
print(f"cat/tax form {likeness(cat, form):.2f}")
