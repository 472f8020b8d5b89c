# Every target installs what it needs into .venv first; the second time that is a file comparison.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers: the suites start their own servers, and more of them than cores only wait for each other.
WORKERS ?= 2

.PHONY: install run test faults mutations soak conformance fuzz fuzz-atheris check audit sbom bench bench-quick \
        lock specs clean

install: $(STAMP)

$(STAMP): pyproject.toml requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP)
	@$(BIN)/inventory-gateway dev $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml gateway listeners protocol

# Known holes in what is locked. It asks PyPI; a package that it can not ask about is a failure, not a pass.
audit: $(STAMP)
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
	    -r requirements/runtime.lock -r requirements/dev.lock

# What the gateway is built on (CycloneDX 1.6): the same bytes for the same lock.
SBOM ?= dist/sbom.cdx.json
sbom: $(STAMP)
	@mkdir -p $(dir $(SBOM))
	$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
	    --spec-version 1.6 --of JSON --output-file $(SBOM) requirements/runtime.lock

test: $(STAMP)
	$(BIN)/python -m tests.run --workers $(WORKERS)

faults: $(STAMP)
	$(BIN)/python -m tests.run --faults --workers $(WORKERS)

mutations: $(STAMP)
	$(BIN)/python -m tests.mutations --workers $(WORKERS) $(ARGS)

MINUTES ?= 10
soak: $(STAMP)
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

conformance: $(STAMP)
	$(BIN)/python -m tests.conformance

INPUTS ?= 1000000
SEED ?= 1
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS) --seed $(SEED) $(ARGS)

# Led by coverage; it brings the one package that the locks do not have.
fuzz-atheris: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(BIN)/python -m tests.fuzz.atheris_run -max_total_time=600 $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m load $(ARGS)

bench-quick: $(STAMP)
	$(BIN)/python -m load --quick $(ARGS)

specs: $(STAMP)
	$(BIN)/python -m protocol.asyncapi > protocol/asyncapi.json
	$(BIN)/python -m gateway.http.openapi > gateway/http/openapi.json
	$(BIN)/python -m gateway.settings_document

# The locks are made for every platform and Python the project supports, with hashes.
LOCK = uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-header \
       --no-strip-extras --no-emit-index-url --no-emit-find-links pyproject.toml
lock:
	$(LOCK) --all-extras -o requirements/dev.lock
	$(LOCK) -o requirements/runtime.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
