# Every target sets up .venv by itself on a fresh machine: python3 (3.11 or later) and make are all it needs.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup links test test-latest test-oldest test-cpus lint demo demo-from-scratch nano web nano-release nano-scores data36 encoders test-engines ten-kills mask-vqvae located docs docs-serve bench bench-check bench-gpu bench-peers comparisons clean

help:
	@echo "make demo   ask and fine-tune the shipped PaLI-3, in three minutes"
	@echo "make demo-from-scratch   train a small PaLI-3 on the built-in images, in about ten minutes"
	@echo "make nano-release   train the checkpoints that ship, in two hours   make nano-scores  score them"
	@echo "make mask-vqvae   train masks as tokens on them, in about ten minutes"
	@echo "make located   boxes and masks from a small PaLI-3, in about an hour"
	@echo "make nano   a PaLI-3 and a PaliGemma through every stage, in under an hour"
	@echo "make web    raw shards with planted noise through openpali web, scored, and stage 1 on what is kept; SEEDS=3 repeats it"
	@echo "make data36   1,121 things named in 36 languages, in four drawing styles (needs npm, one minute)"
	@echo "make encoders   SigLIP and a classification baseline on them, in about forty minutes"
	@echo "make test   run the tests          make lint   ruff and pyright"
	@echo "make test-latest   the tests with the newest releases that setup.cfg admits   make test-oldest  with the oldest"
	@echo "make test-cpus   run them as three other kinds of processors do"
	@echo "make docs   these pages as a site, in site/; make docs-serve shows it while you write"
	@echo "make bench  speed and memory ratios   make bench-check  that they hold   make bench-gpu  a GPU's steps and memory, in ten minutes"
	@echo "make comparisons   what the papers found by varying one thing, at small scale, in a night"
	@echo "make bench-peers   how other programs train PaliGemma, each in an environment of its own (about 8 GB)"
	@echo "make test-engines   DDP, FSDP2 and ZeRO against one process   make ten-kills  runs that are killed and go on"
	@echo "make clean  remove what the other targets made"

.venv/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

setup: .venv/ready

# editors and pyright see one package, as it installs
links:
	mkdir -p .typing/openpali
	for room in modeling data recipes eval scripts; do ln -sfn ../../$$room .typing/openpali/$$room; done
	for file in src/openpali/*.py; do ln -sfn ../../$$file .typing/openpali/; done
	ln -sfn ../src/openpali_cli.py .typing/

# tiny models are slower on several threads
test: .venv/ready
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) -q tests

# as other processors run them: on two threads, with vectors of AVX2, and with none longer than SSE's
test-cpus: .venv/ready
	OMP_NUM_THREADS=2 $(MAKE) test
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 DNNL_MAX_CPU_ISA=AVX2 $(MAKE) test
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE DNNL_MAX_CPU_ISA=SSE41 $(MAKE) test

# every engine against one process, on the CPU; DeepSpeed lies apart, since its import would slow down every other test
ENGINES := PYTHONPATH=$(CURDIR)/.venv/engines PATH="$(CURDIR)/.venv/engines/bin:$$PATH" DS_ACCELERATOR=cpu
DEEPSPEED := deepspeed einops hjson msgpack ninja py-cpuinfo pydantic pydantic-core annotated-types typing-inspection psutil

.venv/engines/ready: .venv/ready
	$(BIN)/pip install --quiet --no-deps --target .venv/engines -c constraints.txt $(DEEPSPEED)
	$(ENGINES) $(BIN)/python -c "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load()"
	touch $@

test-engines: .venv/engines/ready
	$(ENGINES) OMP_NUM_THREADS=1 $(BIN)/python tests/engines/engines_table.py
	$(ENGINES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/recipes/run/test_ways_in.py -k deepspeed

# a run of two processes, killed ten times at random moments, against the same one left alone; then a run of each stage
ten-kills: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/engines/ten_kills.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/engines/killed_stages.py

# the newest releases that setup.cfg admits, in an environment of their own; torch stays the pinned build
.venv-latest/ready: setup.cfg pyproject.toml constraints.txt
	test -x .venv-latest/bin/python || $(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install --quiet --upgrade pip
	.venv-latest/bin/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	.venv-latest/bin/pip install --quiet --upgrade --upgrade-strategy eager "$$(grep '^torch==' constraints.txt)" -e ".[dev]"
	# Gradio holds Pillow back; without the extra `page` users have the newest one
	.venv-latest/bin/pip install --quiet --upgrade --no-deps pillow
	touch $@

# left out: benchmarks and the chains of `make`, which run with the pinned releases; Ray, the same one in both
# environments; costs, which are arithmetic; the site and its notebook
test-latest: .venv-latest/ready
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} .venv-latest/bin/python -m pytest -n $(JOBS) -q -rs \
		$(addprefix --ignore=tests/,benchmarks scripts/web/test_web_pipeline.py recipes/costs docs/test_memory_page.py docs/test_chains.py docs/site) tests

# the oldest releases that setup.cfg admits, the same way
.venv-oldest/ready: setup.cfg pyproject.toml constraints.txt tests/oldest.py
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --upgrade pip setuptools packaging
	.venv-oldest/bin/python tests/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	.venv-oldest/bin/pip install --quiet -c .venv-oldest/constraints.txt -e ".[dev]"
	touch $@

test-oldest: .venv-oldest/ready
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} .venv-oldest/bin/python -m pytest -n $(JOBS) -q -rs tests

lint: .venv/ready links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

demo: .venv/ready
	$(BIN)/python -m openpali.scripts.demo

# the three stages of training from nothing
demo-from-scratch: .venv/ready
	$(BIN)/python -m openpali.scripts.demo_from_scratch

# the checkpoints that ship: trained on one core each, in about two hours side by side; FAMILY=pali3 or paligemma trains one of them
nano-release: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m openpali.scripts.nano_release --pack $(if $(FAMILY),--family $(FAMILY))

# their scores by task and language, and the table of README
nano-scores: .venv/ready
	$(BIN)/python -m openpali.scripts.nano_scores

# both families through stage 0, 1, 2 and a transfer, each from the last
nano: .venv/ready
	$(BIN)/python -m openpali.scripts.nano

# raw image-text shards with planted noise, filtered, deduplicated and labelled, against the truth
web: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m openpali.scripts.nano_web_chain $(if $(SEEDS),--seeds $(SEEDS))

# images for contrastive training, into the user's cache folder
data36: .venv/ready
	$(BIN)/python -m openpali.scripts.build_emoji36

# a multilingual SigLIP and a classification baseline on them, side by side
encoders: .venv/ready
	$(BIN)/python -m openpali.scripts.encoders

# masks as tokens: a codec of the released architecture, on the built-in drawings
mask-vqvae: .venv/ready
	$(BIN)/python -m openpali.recipes.mask_vqvae --config mask_vqvae/builtin

# detection and referring segmentation from nothing; trains the codec of mask-vqvae where it is missing
located: .venv/ready
	$(BIN)/python -m openpali.scripts.located

# the pages as a site; links and anchors that lead nowhere end it
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

docs-serve: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# ratios against what one would run instead; close other programs first
bench: .venv/ready
	for file in $(filter-out benchmarks/measuring.py benchmarks/check_floors.py benchmarks/peers.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# a quick version of them; ends with an error where a ratio is below its floor (benchmarks/floors.yaml)
bench-check: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/check_floors.py

# the papers' comparisons, a night on two cores; it resumes. ROWS="01 17" runs some, ROWS=--missing those without scores
comparisons: .venv/ready
	$(BIN)/python benchmarks/comparisons/run.py $(ROWS)
	$(BIN)/python benchmarks/comparisons/page.py

# takes the environment that runs make, since .venv has torch without CUDA
bench-gpu:
	$(PYTHON) benchmarks/gpu/run.py

# how other programs train PaliGemma; their packages come from PyPI into the user's cache folder
bench-peers: .venv/ready
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf .venv .typing build site *.egg-info src/*.egg-info .pytest_cache .ruff_cache outputs
	find . -name __pycache__ -prune -exec rm -rf {} +
