# Why SGD finds flat minima. `make` alone lists what can be made; every target sets up what it needs first.
PYTHON ?= python3
# cpu (light, the default) or cuda (several GB); a choice once made is kept
TORCH ?=
PORT ?= 8000
CHAPTER ?=
# for `make gpu`: how long, what (names of experiments; default: what is missing), and where the results go
BUDGET ?= 9m
NAMES ?=
RACES ?=
OUT ?= build/gpu

RUN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup book pdf summary page check test test-clean mutants serve bench notebooks explorers experiments gpu clean

help: ## list the targets
	@echo "make TARGET, one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.11 (which Python), TORCH=cpu|cuda (which build of torch),"
	@echo "           CHAPTER=01_valley (for notebooks and page), PORT=8000 (for serve and page), BUDGET=9m, NAMES=..., OUT=build/gpu (for gpu)"

setup: ## make .venv and install the pinned packages (once; later runs find it done)
	@$(PYTHON) tools/environment.py $(TORCH)

book: setup ## build the site in _build/html from the executed notebooks
	@$(RUN) tools/book.py

pdf: setup ## print the built site into one PDF, _build/book.pdf (minutes, needs Chromium)
	@$(RUN) tools/pdf.py
	@$(RUN) tools/summary.py

summary: setup ## print what the book found on two pages, _build/html/summary.pdf (needs Chromium)
	@$(RUN) tools/summary.py

page: setup ## show one chapter after a change of its words, not executed (CHAPTER=01_valley)
	@test -n "$(CHAPTER)" || { echo "say which: make page CHAPTER=01_valley"; exit 2; }
	@$(RUN) tools/page.py $(CHAPTER)
	@echo "The page is at http://127.0.0.1:$(PORT)/chapters/$(CHAPTER).html (stop with Ctrl-C)"
	@$(RUN) -m http.server $(PORT) --bind 127.0.0.1 --directory build/page/_build/html

check: setup ## in about a minute: lint, layout, notebooks against texts, the tests of what has changed
	@$(RUN) tools/quick.py

test: setup ## lint, then run all tests and execute every chapter (pytest --nbval)
	@echo "Checking the code's style"
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@echo "Running the tests of the library and, beside them, every chapter"
	@$(RUN) tools/run_tests.py

test-clean: setup ## install into clean environments as Binder and Colab do (minutes, needs a package index)
	@$(RUN) -m pytest -m clean tests/test_setup.py tests/test_lab.py

mutants: setup ## put slips into the formulas, one at a time: does a test notice each? (minutes)
	@$(RUN) tools/mutants.py

serve: setup ## show the built site on a local address
	@test -f _build/html/index.html || $(RUN) tools/book.py
	@echo "The book is at http://127.0.0.1:$(PORT)/ (stop with Ctrl-C)"
	@$(RUN) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

bench: setup ## race with peers (benchmarks/requirements.txt), record, write the table (RACES="top10 trace": only these)
	@$(RUN) benchmarks/run.py $(RACES) --record

notebooks: setup ## make the notebooks from chapters/src, execute what is stale (CHAPTER=NAME: that one, --all: all)
	@$(RUN) tools/notebooks.py execute $(CHAPTER)

explorers: setup ## write what is generated of the explorers (lib/flatmin/explorers/web, _static)
	@$(RUN) tools/explorers.py

experiments: setup ## run the full-scale experiments that are not done (hours; can be stopped and resumed)
	@$(RUN) -m flatmin experiments run --all

gpu: ## device tests and experiments on a GPU, in time, with PYTHON and its packages (BUDGET=9m NAMES= OUT=)
	@$(PYTHON) tools/gpu.py $(NAMES) --budget $(BUDGET) --out $(OUT)

clean: ## remove what was built (not .venv, never data/)
	@echo "Removing _build/ and the tools' caches; .venv/ and data/ stay"
	@rm -rf _build .pytest_cache .ruff_cache .hypothesis
	@find chapters lib tests tools benchmarks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
