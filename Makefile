# Uses an active virtual or conda environment, else creates .venv.
ENV := $(abspath $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),.venv))
PYTHON := $(ENV)/bin/python
INSTALLED := $(ENV)/.reranker-installed
RUN := cd train_reranker && $(PYTHON)
# A process for each core, with one thread: on busy cores two threads of one matrix product wait for each other.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(PARALLEL)

# How the demo's examples are labelled and its reranker is trained; benchmarks/proof.py reads both, too.
GENERATE := --num_examples 1600 --num_neg 5 --test_fraction 0.2
TRAIN := --epochs 1 --batch_size 8 --learning_rate 5e-5 --query_max_len 32 --passage_max_len 96 --mix_with_base 0.75

# Documents of each query that are reranked where people judged.
DEPTH := 20

DATA := train_reranker/data
BASE := models/demo-reranker
MODEL := train_reranker/output_new

.PHONY: install demo data proof test test-all fuzz coverage lint docs bench
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-demo.txt
	@echo "Downloads the packages of requirements.txt into $(ENV): about 4 GB on Linux, where torch brings CUDA's" \
	    "libraries, 0.7 GB elsewhere and with torch's CPU build (docs/install.md); then 0.1 GB for the demo"
	test -x $(PYTHON) || python3 -m venv $(ENV)
	$(PYTHON) -m pip install --quiet -r requirements.txt
	$(PYTHON) -m pip install --quiet --no-deps -r requirements-demo.txt
	touch $@

# The demo: corpus to examples, examples to a reranker, and whether it helped.
demo: $(MODEL)/config.json
	@echo "== 4 of 4: does it help? A test on held-out examples, and an ablation"
	$(RUN) test_reranker.py --model_path output_new --baseline_model ../$(BASE) --test_data data/test_data.jsonl \
	    --config ../config_lib/demo_config.yaml --output_file finetune_results.json
	$(RUN) rerank_ablation_test.py --num 100 --ft_model output_new --exclude_data data/demo_examples.provenance.jsonl \
	    --output_file ablation_results/demo.json
	@$(if $(PROOF_DATA),$(PYTHON) benchmarks/proof.py --data $(PROOF_DATA) --depth $(DEPTH) --model $(MODEL) --base $(BASE),\
	    echo "By the teacher that labelled the training data. For relevance that people judged: make proof PROOF_DATA=<folders>" \
	    "(of BEIR: https://github.com/beir-cellar/beir)")

data: $(DATA)/train_data.jsonl

# After the examples, which need no reranker: they are seen within a minute or two.
$(BASE)/config.json: | $(INSTALLED)
	@echo "== 2 of 4: the base reranker, distilled without a label"
	$(RUN) -m tools.prepare_demo

$(DATA)/train_data.jsonl: | $(INSTALLED)
	@echo "== 1 of 4: a corpus, and examples by the offline teacher"
	$(RUN) -m tools.prepare_demo --no_base
	$(RUN) contrastive_data_generator.py $(GENERATE) --output_dir data --output_file demo_examples.jsonl --overwrite

$(MODEL)/config.json: | $(DATA)/train_data.jsonl $(BASE)/config.json
	@echo "== 3 of 4: fine-tuning on the examples"
	$(RUN) train_reranker.py --model_path ../$(BASE) --train_data data/train_data.jsonl --output_dir output_new \
	    $(TRAIN) --overwrite_output_dir

# The demo's recipe on relevance that people judged, in the BEIR folders PROOF_DATA.
proof: $(BASE)/config.json
	$(PYTHON) benchmarks/proof.py --data $(PROOF_DATA) --depth $(DEPTH) --seeds $(or $(SEEDS),0)

test: $(INSTALLED)
	$(PYTEST)

# With the full number of kills, cases and seeds: hours on two cores.
test-all: $(INSTALLED)
	$(PYTEST) -m "slow or not slow"

# 10,000 damaged files of each kind that the scripts read; `make test` tries 60 of each.
fuzz: $(INSTALLED)
	$(PYTHON) -m pytest tests/fuzz --hypothesis-profile fuzz

# How much of utils the tests run, in this process and in those that they start: at least 90%.
coverage: $(INSTALLED)
	$(PYTHON) -m coverage erase
	OMP_NUM_THREADS=1 $(PYTHON) -m coverage run -m pytest $(PARALLEL) $(TESTS)
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

lint: $(INSTALLED)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

# The pages of all flags and keys, and of the requirements' licences.
docs: $(INSTALLED)
	$(PYTHON) docs/make_reference.py
	$(PYTHON) docs/make_licences.py

bench: $(DATA)/train_data.jsonl $(BASE)/config.json
	for benchmark in $(filter-out benchmarks/proof.py,$(wildcard benchmarks/*.py)); do $(PYTHON) $$benchmark || exit; done
