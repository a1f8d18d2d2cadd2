# Every target sets up .venv first (requirements/install.sh), at once where that is done.
# ARGS goes to the command: make demo ARGS=--help, make test ARGS="-k pairing".
# ROS=jazzy takes the wheels of Jazzy in place of Kilted's, in .venv-jazzy: make test ROS=jazzy.
SHELL := bash
ROS ?= kilted
export ROS
BIN := .venv$(patsubst %,-%,$(filter-out kilted,$(ROS)))/bin
# Every node and command would compile torch anew, which takes longer than their work.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz cases label-tools lint docs bench params pins audit sbom clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with everything, and the system libraries it needs (PROFILE=robot: without PyTorch, to run exports)
	@requirements/install.sh

demo: setup ## record, train, evaluate and run, on synthetic images
	@$(BIN)/deal demo $(ARGS)

# Plugins are named, not found: an apt ROS brings some that do not fit this pytest. Hypothesis draws the same examples
# every time; `.venv/bin/pytest` draws new ones. A worker more than there are cores, up to four: tests of processes wait
# much. Workers without tests take some from the others. ARGS="-n 0" runs all in one process, as a debugger needs it.
PLUGINS := -p timeout -p hypothesispytest -p xdist
CORES := $(shell getconf _NPROCESSORS_ONLN)
# What depends on the distribution; all other tests would say the same again.
TESTS := $(if $(filter-out kilted,$(ROS)),$(if $(findstring test/,$(ARGS)),,test/deal_ros test/launch))
test: setup ## run the tests
	@requirements/install.sh tests
	@PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest $(PLUGINS) --hypothesis-profile=ci \
	    -n $$(($(CORES) < 4 ? $(CORES) + 1 : 4)) --dist worksteal $(TESTS) $(ARGS)

# Each format gets this many seconds. Faults are kept in fuzz_faults/, from where they go into test/fuzz/corpus/<format>/.
# COVERAGE=1 lets atheris choose the changes by the branches they reach, where it installs.
SECONDS ?= 60
SEED ?= 0
fuzz: setup ## change files of every format for SECONDS= each, and see whether their readers hold
	@$(if $(COVERAGE),PATH="$$PATH:.uv/bin" uv pip install --quiet --python $(BIN)/python atheris && \
	    $(BIN)/python test/fuzz/by_coverage.py $(SECONDS) $(ARGS),PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 DEAL_FUZZ_SECONDS=$(SECONDS) \
	    DEAL_FUZZ_SEED=$(SEED) DEAL_FUZZ_KEEP=fuzz_faults $(BIN)/python -m pytest $(PLUGINS) -n 0 --timeout=0 test/fuzz $(ARGS))

# The scripts make inputs that people brought, and are not part of the project: without them the tests are skipped.
cases: setup ## run the scripts in ../shared/cases
	@PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest $(PLUGINS) -n 0 test/test_cases.py $(ARGS)

# Their packages need older versions of others than the project, and take 540 MB: they have an environment of their own.
label-tools: setup ## install the parsers of other label tools, with which the tests read exported masks
	@PATH="$$PATH:.uv/bin" && uv venv --quiet --allow-existing --python $(BIN)/python .venv-label-tools && \
	    touch .venv-label-tools/COLCON_IGNORE && uv pip install --quiet --python .venv-label-tools/bin/python \
	    --require-hashes --requirement requirements/label-tools.txt

lint: setup ## check style, types and the site of the documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory docs

# A broken link, a missing anchor and a public name without a docstring are errors, which --quiet would hide. The variable
# silences a notice of the theme's authors about their next program.
docs: setup ## build the site of the documents into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

bench: setup ## run the scripts in benchmarks/
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit; done

params: setup ## write the schemas, tables and security policies of the nodes' parameters anew
	@$(BIN)/python -m deal_ros.parameter_docs && $(BIN)/python -m deal_ros.security_policies

JETSON_EXTRAS := --extra robot --extra tensorrt --extra train --extra realsense --extra depth --extra export --extra tag --extra dev
EXTRAS := $(JETSON_EXTRAS) --extra view --extra docs
PIN_ANY := compile --no-emit-index-url --custom-compile-command "make pins" --generate-hashes
PIN := $(PIN_ANY) --universal --python-version 3.10
# The viewer of `deal view` takes no numpy 1, which NVIDIA's torch for JetPack 6 needs.
PIN_JETSON := $(PIN_ANY) --override requirements/jetson.in
PINS := $(addprefix requirements/,apt-ros.txt pypi-ros.txt jazzy.txt jetpack6.txt jetpack7.txt)
# PyTorch and CUDA have builds of the same version for other GPUs, which people install from elsewhere: no hashes.
OTHER_BUILDS := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-(toolkit|bindings|pathfinder))==
pins: setup ## choose the versions in requirements/ anew (ARGS=--upgrade: the newest)
	@PATH="$$PATH:.uv/bin" uv pip $(PIN) $(ARGS) --quiet setup.py requirements/torch.in --output-file requirements/apt-ros.txt \
	    $(EXTRAS)
	@PATH="$$PATH:.uv/bin" uv pip $(PIN) $(ARGS) --quiet setup.py requirements/torch.in --output-file requirements/pypi-ros.txt \
	    --extra ros --extra interfaces --extra colcon $(EXTRAS) --constraint requirements/apt-ros.txt
	@PATH="$$PATH:.uv/bin" uv pip $(PIN) $(ARGS) --quiet requirements/jazzy.in --output-file requirements/jazzy.txt \
	    --constraint requirements/apt-ros.txt
	@PATH="$$PATH:.uv/bin" uv pip $(PIN_JETSON) $(ARGS) --quiet setup.py --constraint requirements/jetpack6.in \
	    --python-version 3.10 --python-platform aarch64-manylinux_2_35 --output-file requirements/jetpack6.txt $(JETSON_EXTRAS)
	@PATH="$$PATH:.uv/bin" uv pip $(PIN_JETSON) $(ARGS) --quiet setup.py --constraint requirements/jetpack7.in \
	    --python-version 3.12 --python-platform aarch64-manylinux_2_39 --output-file requirements/jetpack7.txt $(JETSON_EXTRAS)
	@for file in $(PINS); do \
	    awk '/^[^ #]/ {other = /$(OTHER_BUILDS)/} other {sub(/ \\$$/, "")} !(other && /^ +--hash=/)' $$file >$$file.tmp && \
	    mv $$file.tmp $$file || exit; done
	@for name in uv audit label-tools; do \
	    PATH="$$PATH:.uv/bin" uv pip $(PIN) $(ARGS) --quiet requirements/$$name.in --output-file requirements/$$name.txt || exit; done

audit: setup ## look for risky code, and for known vulnerabilities of the pinned packages
	@requirements/audit.sh audit

sbom: setup ## list what is installed in sbom.json (CycloneDX)
	@requirements/audit.sh sbom

clean: ## remove caches and what builds and demos leave
	@rm -rf build install log site demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove the environments and uv, too
	@rm -rf .venv .venv-* .uv .uv.new
