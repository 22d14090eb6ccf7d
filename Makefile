# What is set here is set on make's command line alone: a HOST or MODEL in the environment means something else.
PYTHON = python3
CONFIG = serve_config.yaml
HOST =
PORT =
MODEL =
SET =

# A variable's value as one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(value $(1)))'
option = $(if $(value $(2)),$(1)=$(call quoted,$(2)))

PIP = .venv/bin/python -m pip -qq --disable-pip-version-check
RUN = .venv/bin/python -m
PROMTOOL = promtool check config ops/prometheus/prometheus.yml && promtool test rules ops/prometheus/rules_test.yml

.DEFAULT_GOAL = help
.PHONY: help serve status reload test test-served nightly test-gpu check bench fuzz chaos soak eval-demo tried pictures hooks clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 14

serve: .venv/.serve  ## Darkroom on this machine [CONFIG=file HOST=address PORT=number MODEL=folder or hub id SET='field=value ...']
	@exec $(RUN) ops.launch $(call quoted,CONFIG) $(call option,--host,HOST) $(call option,--port,PORT) $(call option,--model,MODEL) $(call option,--set,SET)

status: .venv/.serve  ## applications, replicas and queue of what runs [CONFIG=file]
	@$(RUN) ops.status $(call quoted,CONFIG)

reload: .venv/.serve  ## deploy what has changed in the config of what runs [CONFIG=file]
	@$(RUN) ops.reload $(call quoted,CONFIG)

test: .venv/.dev  ## the tests that need no Ray: units, and the page in Chromium over a fake cluster
	$(RUN) pytest -n 2 --dist worksteal -m "not nightly and not gpu" tests --ignore=tests/served

test-served: .venv/.dev  ## the tests of the served whole, on one Ray
	$(RUN) pytest -m "not nightly and not gpu" tests/served

nightly: .venv/.dev  ## hours: what is repeated for the sake of counts
	$(RUN) pytest -m nightly tests
	$(RUN) tests.fuzz
	$(RUN) tests.chaos
	$(RUN) tests.chaos.soak

test-gpu: .venv/.dev  ## those that need a CUDA device
	$(RUN) pytest -m gpu tests

check: .venv/.dev  ## lint, format, types, import laws, configs, alert rules, known vulnerabilities
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright
	.venv/bin/lint-imports
	$(RUN) ops.config serve_config.yaml ops/configs/*.yaml
	@if command -v promtool >/dev/null; then $(PROMTOOL); else \
	    echo "No promtool (Debian: prometheus), so the alert rules were not checked."; [ "$$CI" != true ]; fi
	.venv/bin/bandit -q -r models deployments gradio_ingress ops -c pyproject.toml
	$(RUN) ops.audit

bench: .venv/.dev  ## the tables of benchmarks/
	$(RUN) benchmarks.overhead
	$(RUN) benchmarks.memory
	$(RUN) benchmarks.loading
	$(RUN) benchmarks.engine
	$(RUN) benchmarks.throughput
	$(RUN) benchmarks.latency
	$(RUN) benchmarks.planned
	$(RUN) benchmarks.queue
	$(RUN) benchmarks.http --slow
	$(RUN) benchmarks.page
	$(RUN) benchmarks.metrics
	$(RUN) benchmarks.autoscale_sim --plot docs/images/autoscaling.png

fuzz: .venv/.dev  ## 20,000 requests that nobody would write, and 6,000 broken images, to a service of its own
	$(RUN) tests.fuzz

chaos: .venv/.dev  ## kill everything, and see what is lost: nothing
	$(RUN) tests.chaos

soak: .venv/.dev  ## half an hour of mixed load: what is lost, and what grows
	$(RUN) tests.chaos.soak

eval-demo: .venv/.dev  ## how well the demo model draws what it is told
	$(RUN) training.shapes.evaluate --sheet docs/images/shapes.png
	$(RUN) training.shapes.evaluate_edits
	$(RUN) training.shapes.evaluate_adapters

tried: .venv/.dev  ## the table of checkpoints that were tried
	$(RUN) pytest -q tests/unit/models/test_tried_checkpoints.py --tried-to docs/checkpoints.md

pictures: .venv/.dev  ## the documentation's pictures of the page
	$(RUN) pytest tests/served/test_page.py -k readme --pictures-to docs/images

hooks: .venv/.dev  ## have git check each commit: ruff and pyright
	$(RUN) pre_commit install

clean:  ## remove what was installed and built
	rm -rf .venv build darkroom.egg-info

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -m venv .venv

.venv/.serve: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing into .venv (once, some minutes) ..."
	@$(PIP) install -c constraints.txt .
	@rm -rf build darkroom.egg-info
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing into .venv, development tools included (once, some minutes) ..."
	@$(PIP) install --no-compile -c constraints.txt '.[dev]' # Python compiles what is imported: a part of it all
	@rm -rf build darkroom.egg-info
	@touch $@
