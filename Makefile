# Every target sets up what it needs; the first run installs into .venv, later runs start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo docs study test test-all test-pythons test-arm64 check coverage wheels release-check audit fuzz bench bundle clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

NATIVE := mmkd_edge/native/build.py $(wildcard $(addprefix mmkd_edge/native/,include/* src/* third_party/*))

# pip and the build tools come first and once, so that a later change of the commands asks nothing of the network.
$(READY): pyproject.toml hatch_build.py app/mmkd_app/cli/catalogue.py $(NATIVE)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { rm -rf $(VENV); echo '$(PYTHON) is older than 3.10; run: make PYTHON=python3.11 $(MAKECMDGOALS)' >&2; exit 2; }
	@echo "setting up $(VENV); the first time this takes minutes"
	@$(BIN)/python -c 'import editables, hatchling' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip editables hatchling
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $(READY)

setup: $(READY)  ## make .venv with everything a developer needs

demo: $(READY)  ## train, distil, export, run, benchmark on the shipped recordings; writes demo/report.html
	$(BIN)/mmkd-demo --out demo

docs: $(READY)  ## the documents as a site, checked strictly: build/docs/site/index.html (needs Python 3.11)
	@$(BIN)/zensical --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/python docs/site/stage.py build/docs
	$(BIN)/python docs/site/documents.py build/docs/pages/schemas
	cd build/docs && $(CURDIR)/$(BIN)/zensical build --strict

# A set and a student's sensor each, with a teacher of another size than small where it is named; sets of your own
# beside the shipped one: make study STUDY_SETS="mydata:imu other:acc:tiny"
STUDY_SETS ?= models/mmkd_models/data/watch_exercises:gyro
BUDGET_HOURS ?= 2
FOLDS ?= 5
# STUDY_OPTIONS="--whole-groups" labels a third of the groups in place of a tenth of the windows; --choose races students.
STUDY_OPTIONS ?=
study: $(READY)  ## compare every way to distil with labels only, in stages; resumes; writes build/study/distillation.md
	$(BIN)/python benchmarks/checks/study/distillation.py $(STUDY_SETS) --folds $(FOLDS) --budget-hours $(BUDGET_HOURS) --latency $(STUDY_OPTIONS)

# Whole files go to a process each, so that what they share is made once; every process keeps to one thread. Tests that
# wait leave their core to the process that is one more than cores. tests/conftest.py says which files come first.
PROCESSES ?= 3
test: $(READY)  ## the fast tests (about 6 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test-all: $(READY)  ## also the slow tests and those that need a package registry, TensorRT-RTX or LiteRT
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,trt,trt-rtx,litert-export]'
	$(BIN)/python -m pytest -m 'not gpu'

test-pythons: $(READY)  ## the wheel with [ort], with every Python from 3.10 to 3.13 that is on PATH
	$(BIN)/python -m pytest -rs -m 'slow and network' -k every_python tests/test_packages.py

BUNDLES ?=
test-arm64: $(READY)  ## the runtime on ARM64 made of software, beside this machine; downloads, and takes minutes
	$(BIN)/python benchmarks/checks/arm64.py --root build/arm64 $(BUNDLES:%=--bundle %)

check: $(READY)  ## lint, types, images and prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile Dockerfile.jetson
	$(BIN)/codespell --skip '*/third_party/*' -D - -D docs/site/vocabulary.dic README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs examples mmkd_edge export benchmarks models app documents station tests
	$(BIN)/proselint check --config docs/site/proselint.json README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs

coverage: $(READY)  ## lines and branches of what a device trusts (bundle/, install/, the sandbox check) that their tests reach: all, or it fails
	@$(BIN)/python -m coverage --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check coverage
	@mkdir -p build
	# What runs in the child process of a sandbox check is out of coverage's sight; test_sandbox.py asserts how each ends.
	COVERAGE_FILE=build/.coverage OMP_NUM_THREADS=1 $(BIN)/python -m coverage run --branch --source=mmkd_edge.bundle,mmkd_edge.install,mmkd_edge.opening.sandbox \
	  -m pytest -q tests/edge/bundle tests/edge/install tests/edge/opening
	COVERAGE_FILE=build/.coverage $(BIN)/python -m coverage report --show-missing --fail-under=100

RELEASE := build/release
wheels: $(READY)  ## the sdist, and wheels with bills of materials for Linux x86-64 and aarch64 with any glibc from 2.17 and for Windows, by ziglang: dist/
	rm -rf dist
	$(BIN)/python -m venv --clear $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check hatchling twine 'ziglang>=0.13' 'auditwheel>=6'
	MMKD_WHEEL=x86_64 $(RELEASE)/bin/hatchling build -d dist
	MMKD_WHEEL=aarch64 $(RELEASE)/bin/hatchling build -t wheel -d dist
	MMKD_WHEEL=win_amd64 $(RELEASE)/bin/hatchling build -t wheel -d dist
	$(RELEASE)/bin/twine check --strict dist/*
	for wheel in dist/*linux*.whl; do $(RELEASE)/bin/auditwheel show $$wheel || exit; done
	for wheel in dist/*.whl; do $(BIN)/mmkd-inspect $$wheel --sbom > $$wheel.cdx.json || exit; done

release-check: wheels  ## build wheels and sdist, check their metadata, test them as others get them
	MMKD_DIST=dist $(BIN)/python -m pytest -m 'slow or not slow' tests/test_packages.py tests/test_image.py
	@echo 'release-check: dist/ is sound; next: a version and a date in CHANGELOG.md, a tag, twine upload dist/*'

audit: $(READY)  ## known weaknesses of what is installed, by pip-audit; says so where that cannot be had
	@$(BIN)/python -m pip_audit --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet pip-audit >/dev/null 2>&1 || \
	  { echo 'audit: pip-audit is not installed and cannot be had here; nothing was audited' >&2; exit 3; }
	@said=$$($(BIN)/python -m pip_audit --skip-editable --progress-spinner off 2>&1); code=$$?; echo "$$said"; \
	  case "$$said" in *'could not be audited'*) \
	    echo 'audit: what is named above could not be audited: the registry does not know it' >&2; exit 3;; esac; exit $$code

MINUTES ?= 10
fuzz: $(READY)  ## give every reader of files what nobody has thought of; guided where atheris is installed
	$(BIN)/python benchmarks/checks/fuzz.py --minutes $(MINUTES)

bench: $(READY)  ## benchmark the shipped student on this machine
	$(BIN)/mmkd-bench run mmkd_edge/bundles/watch_acc.edge

DATA := models/mmkd_models/data/watch_exercises
bundle: $(READY)  ## train the bundle that the package ships, mmkd_edge/bundles/watch_acc.edge
	mkdir -p build
	$(BIN)/mmkd-train teacher $(DATA) -o build/teacher.ckpt
	$(BIN)/mmkd-distill build/teacher.ckpt $(DATA) --modality acc --no-choose -o build/watch_acc.ckpt
	$(BIN)/mmkd-export build/watch_acc.ckpt -o mmkd_edge/bundles/watch_acc.edge

clean:  ## remove what the other targets made
	rm -rf $(VENV) build demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
