# Two commands are enough: `make demo` and `make test`. Each makes its own .venv first when there is none.
PYTHON ?= python3
PY     := .venv/bin/python
STAMP  := .venv/.installed
SHELL  := bash
LAB    ?=
LESSON := nbs/tutorials/01_first_similarity.ipynb

.DEFAULT_GOAL := help
.PHONY: help demo test lint types lab docs docs-open bench export clean
.NOTPARALLEL:

help: ## This list
	@echo "tensorsim_nb: exact, weight-based similarity of polynomial networks"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo; echo "  The first target that needs it makes .venv; choose its Python with PYTHON=python3.12"

$(STAMP): constraints.txt settings.ini setup.py
	@"$(PYTHON)" -c '' 2>/dev/null || { echo "make needs Python 3.10 or newer: got '$(PYTHON)', which does not run." \
	  "Install Python or name one: make demo PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" tools/setup_env.py

# A Python that was asked for by name must be the one that .venv was made with.
ifneq ($(origin PYTHON),file)
$(STAMP): | same-python
.PHONY: same-python
same-python:
	@version() { "$$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo unknown; }; \
	  want=$$(version "$(PYTHON)"); got=$$(version $(PY)); [ "$$got" = unknown ] || [ "$$want" = "$$got" ] || \
	  { echo "PYTHON=$(PYTHON) (version $$want) needs a .venv of its own: got one of Python $$got." \
	  "Remove it (rm -r .venv) and run make again, or leave PYTHON out." >&2; exit 1; }
endif

demo: $(STAMP) ## The main job on real digits: train, insert a backdoor, find it from the weights (into demo/)
	@.venv/bin/tensorsim demo

test: $(STAMP) ## Everything: notebooks in sync and clean, README, notebooks run, pytest
	@$(PY) tools/gate.py

lint: $(STAMP) ## Faults that ruff finds (installs it when it is missing; rules in ruff.toml)
	@$(PY) -m ruff --version >/dev/null 2>&1 || $(PY) -m pip install -q ruff==0.17.5
	@$(PY) -m ruff check tensorsim_nb tests tools benchmarks docs setup.py

types: $(STAMP) ## Type check of the package (installs mypy when it is missing; settings in mypy.ini)
	@$(PY) -m mypy --version >/dev/null 2>&1 || $(PY) -m pip install -q mypy==2.4.1
	@$(PY) -m mypy

lab: $(STAMP) ## JupyterLab at the first lesson (as root, in a container: LAB=--allow-root)
	@$(PY) -m jupyterlab $(LESSON) $(LAB)

docs: $(STAMP) ## The site, for reading offline (into _docs/)
	@$(PY) docs/build.py

docs-open: docs ## Build the site and open it in the browser
	@$(PY) -m webbrowser -t "file://$(CURDIR)/_docs/index.html"

bench: $(STAMP) ## Run each benchmarks/*.py in turn
	@shopt -s nullglob; files=(benchmarks/*.py); echo "$${#files[@]} benchmark(s)"; \
	  for f in "$${files[@]}"; do echo; echo "== $$f"; $(PY) "$$f" || exit 1; done

export: $(STAMP) ## After editing a notebook: export modules, clean notebooks, write README.md
	@$(PY) tools/gate.py export

clean: ## Remove what was built (not .venv, demo/ or runs/)
	@rm -rf _docs _proc build dist *.egg-info .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
