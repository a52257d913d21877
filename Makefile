# Needs Python >= 3.11 with venv, Node >= 20.20, git and make. Everything lands in .venv, node_modules, data and runs.
#   make setup TORCH="torch==2.13.0 --index-url URL"   another build of PyTorch (on a machine with a GPU the plain one brings CUDA)
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
CONFIG ?= configs/demo.yaml
RUN_DIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONUSERBASE # of other Pythons
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)

VENV_DONE := .venv/.done-$(shell printf '%s' '$(TORCH)' | cksum | cut -d' ' -f1)
NODE_DONE := node_modules/.done

.PHONY: help setup docs demo demo-clips demo-ablation sweep-demo train evaluate bench test check test-all test-pages test-ffprobe test-export test-recipes test-trackers test-load test-parts lint types jest pytest test-slurm test-nodes test-ray test-ranks mutants mutants-check parity clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV_DONE) $(NODE_DONE) dist/cli.mjs ## .venv and node_modules, at the pinned versions

define CHECK_NODE
@command -v npm >/dev/null && command -v node >/dev/null || { echo 'node and npm were not found. Node 20.20 or newer is needed: https://nodejs.org'; exit 1; }
@node -e 'var v = process.versions.node.split("."); process.exit(v[0] > 20 || (v[0] == 20 && v[1] >= 20) ? 0 : 1)' || { echo "Node $$(node --version) was found. Node 20.20 or newer is needed: https://nodejs.org"; exit 1; }
endef

$(VENV_DONE): requirements.txt pyproject.toml
	$(CHECK_NODE)
	@command -v $(PYTHON) >/dev/null || { echo 'python3 was not found. Python 3.11 or newer is needed: apt-get install python3 python3-venv'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) was found. Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'This Python cannot make virtual environments: apt-get install python3-venv'; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check $(TORCH) -r requirements.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@rm -f .venv/.done-*; touch $@

$(NODE_DONE): package.json package-lock.json
	$(CHECK_NODE)
	npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error  # not ci: see LOG.md, Structure
	@ln -sf ../../node_modules/.bin/yarn ../../scripts/coldframe .venv/bin/ # after `. .venv/bin/activate` both are in PATH
	@touch $@
$(NODE_DONE): | $(VENV_DONE)

dist/cli.mjs: $(NODE_DONE) scripts/bundle.mjs $(shell find src -type f)
	@node --import tsx scripts/bundle.mjs

demo-clips: setup ## the demo's video clips under data/demo
	.venv/bin/python scripts/make_demo_clips.py --out data/demo

demo: demo-clips ## the main job on real video: clips, train, evaluate, predict
	yarn -s train --config configs/demo.yaml
	yarn -s evaluate --config configs/demo.yaml --checkpoint runs/demo/checkpoints/latest
	yarn -s predict --checkpoint runs/demo/checkpoints/latest "$$(find data/demo/val -name '*.mp4' | sort | head -n 1)" --top 3
	@echo 'The run lies in runs/demo: config.json, events.jsonl, checkpoints/, metrics/ (TensorBoard), status.json'

demo-ablation: demo-clips ## the demo without its three temporal modules: what they are worth
	yarn -s train --config configs/demo.yaml --run-dir runs/demo-ablation --set model.temporal.conv=false \
	  --set model.temporal.position_embedding=false --set model.temporal.cross_attention=false

sweep-demo: demo-clips ## 12 trials in one cohort on the demo's clips, halved twice: sweep, status, report
	yarn -s coldframe sweep --config configs/sweeps/demo.yaml --run-dir runs/sweep-demo
	yarn -s coldframe sweep status runs/sweep-demo
	yarn -s coldframe sweep report runs/sweep-demo

train: setup ## make train CONFIG=configs/my.yaml [RUN_DIR=runs/my] [ARGS="--set train.lr=1e-3"]
	yarn -s train --config $(CONFIG) --run-dir $(RUN_DIR) $(ARGS)

evaluate: setup ## make evaluate CONFIG=configs/my.yaml: the newest checkpoint of its run
	yarn -s evaluate --config $(CONFIG) --checkpoint $(RUN_DIR)/checkpoints/latest $(ARGS)

bench: setup ## every ratio of the README's table, on this machine
	yarn -s coldframe bench all $(ARGS)

test: setup lint types ## everything: lint, types, every test
	yarn -s jest
	.venv/bin/pytest

check: setup lint types ## lint, types and the quick tests
	yarn -s jest
	.venv/bin/pytest -m 'not slow'

test-all: test test-pages test-load test-parts test-ffprobe test-recipes test-trackers test-slurm test-ray ## and the heavy ones: a browser, a server under load, a cache in parts, ffprobe, W&B and MLflow, a Slurm, a Ray

test-pages: setup ## the pages of reports, timelines and the server in headless Chromium (Debian's; installed when root)
	@test -x "$$CHROMIUM" || scripts/need.sh chromium chromium  # and a font, which fontconfig depends on
	yarn -s jest --testMatch '**/*.pages.ts'

test-load: setup ## a server under 200 requests of eight clients: none is lost, and its memory stays
	yarn -s jest --config jest.heavy.config.js test/heavy/serve-load $(ARGS)

test-ffprobe: setup ## what probes tell against Debian's ffprobe (installed when root); CLIPS=DIR: its variants/ and broken/, too
	@scripts/need.sh ffprobe ffmpeg
	CLIPS=$(CLIPS) .venv/bin/pytest test/heavy/test_ffprobe.py

test-recipes: setup ## the K400 recipes' dry runs for eight devices, without a GPU
	yarn -s jest --config jest.heavy.config.js test/heavy/recipes $(ARGS)

# Not in test-all: it trains the demo and takes ten minutes and more.
test-export: setup demo-clips ## exported models at real size: the demo's 200 validation clips, and ViT-B/16 with its peak memory
	.venv/bin/pytest test/heavy/test_export.py $(ARGS)

lint: setup mutants-check
	yarn -s lint
	.venv/bin/lint-imports
	.venv/bin/ruff check py test scripts
	.venv/bin/ruff format --check py test scripts

types: setup
	yarn -s types
	.venv/bin/mypy

jest: setup
	yarn -s jest $(ARGS)

pytest: setup
	.venv/bin/pytest $(ARGS)

test-slurm: setup ## the slurm executor on a private Slurm of this machine (as root; installs slurm-wlm and munge)
	@export SLURM_TEST_HOME=$$(mktemp -d); export SLURM_CONF=$$SLURM_TEST_HOME/slurm.conf; \
	trap 'scripts/slurm_up.sh down; rm -rf $$SLURM_TEST_HOME' EXIT; \
	scripts/slurm_up.sh up && yarn -s jest --config jest.heavy.config.js test/heavy/slurm $(ARGS)

# Not in test-all: forty restarts take ten minutes and more.
test-ranks: setup demo-clips ## ten kills each of the program, of torchrun, of a rank and of a loader worker; SEED=N draws the same moments
	yarn -s jest --config jest.heavy.config.js test/heavy/rank-kills $(ARGS)

test-parts: setup ## feature caches and clips made in parts, some of them killed, have the files of one process
	yarn -s jest --config jest.heavy.config.js test/heavy/parts $(ARGS)

# Not in test-all: it takes four minutes.
test-nodes: setup ## training on two nodes of a private Slurm and by hand, with nodes that are killed: docs/clusters.md (as root)
	@export SLURM_TEST_HOME=$$(mktemp -d); export SLURM_CONF=$$SLURM_TEST_HOME/slurm.conf; \
	trap 'scripts/slurm_up.sh down; rm -rf $$SLURM_TEST_HOME' EXIT; \
	scripts/slurm_up.sh up && yarn -s jest --config jest.heavy.config.js test/heavy/nodes $(ARGS)

test-ray: setup .cache/ray-venv/.done ## the ray executor on a Ray of its own, installed under .cache
	@export RAY_TEST_HOME=$$(mktemp -d); \
	trap 'kill -KILL -- $$(cat $$RAY_TEST_HOME/groups 2>/dev/null) 2>/dev/null; rm -rf $$RAY_TEST_HOME' EXIT; \
	yarn -s jest --config jest.heavy.config.js test/heavy/ray $(ARGS)

test-trackers: setup .cache/trackers-venv/.done ## run.wandb and run.mlflow on the real packages, offline, installed under .cache
	.cache/trackers-venv/bin/python -m pytest test/heavy/test_trackers.py $(ARGS)

# It sees what .venv has, and installs the rest.
.cache/trackers-venv/.done: requirements-trackers.txt $(VENV_DONE)
	test -x .cache/trackers-venv/bin/python || .venv/bin/python -m venv .cache/trackers-venv
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(.cache/trackers-venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/coldframe.pth
	.cache/trackers-venv/bin/pip install --quiet --disable-pip-version-check -r requirements-trackers.txt
	@touch $@

.cache/ray-venv/.done: requirements-ray.txt
	test -x .cache/ray-venv/bin/python || $(PYTHON) -m venv .cache/ray-venv
	.cache/ray-venv/bin/pip install --quiet --disable-pip-version-check -r requirements-ray.txt
	@touch $@

docs: setup ## what of docs/ is made from the sources
	node --import tsx scripts/make_docs.ts

mutants: setup ## plants some 200 small bugs, one at a time: fails when a test does not notice its own
	.venv/bin/python scripts/mutants.py $(ARGS)

mutants-check: setup # that each of them can still be planted
	.venv/bin/python scripts/mutants.py --check

parity: setup ## replays the fixtures of the original against this code
	.venv/bin/python scripts/parity.py test/fixtures/parity

clean: ## removes what can be made again: .venv, node_modules, caches (never data or runs)
	rm -rf .venv node_modules dist .cache .pytest_cache .ruff_cache .mypy_cache py/*.egg-info
