# make demo: a video from a prompt, from a fresh clone.   make test: the tests, likewise.
# make demo-stream: the causal checkpoint, whose frames are in the file chunk by chunk.
# make curves: quality against steps of the shipped checkpoint, of its forward-only stage and of its teacher.
# make bench: quality and latency against steps beside diffusers (bench-report/), then the speed and memory targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The repository root must not come first on sys.path: its kernels/ folder would shadow a package of that name.
export PYTHONSAFEPATH := 1
PROMPT ?= a large red circle moving right on a black background

.PHONY: demo demo-stream test lint bench curves clean

$(VENV)/.installed: setup.py pyproject.toml constraints.txt
	@echo 'installing into $(VENV): a few minutes, about 2 GB'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/anyflow-rt build
	$(BIN)/anyflow-rt run --prompt "$(PROMPT)" --output demo.mp4
	$(BIN)/anyflow-rt run --prompt "$(PROMPT)" --output demo.png
	@echo "demo.mp4 was asked for: $(PROMPT) (demo.png is its contact sheet)"

demo-stream: $(VENV)/.installed
	$(BIN)/anyflow-rt build --ckpt shapes-causal
	$(BIN)/anyflow-rt run --bundle shapes-causal --prompt "$(PROMPT)" --stream demo-stream.mp4
	$(BIN)/anyflow-rt run --bundle shapes-causal --prompt "$(PROMPT)" --output demo-stream.png
	@echo "demo-stream.mp4 was written chunk by chunk: $(PROMPT) (demo-stream.png is its contact sheet)"

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_OPTIONS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .cache/types
	$(BIN)/python setup.py --quiet build --build-base .cache/build --build-lib .cache/types
	cd .cache/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --package anyflow_rt

bench: $(VENV)/.installed
	$(BIN)/anyflow-rt build
	$(BIN)/anyflow-rt bench --compare diffusers --report bench-report
	$(BIN)/python -m anyflow_rt.benchmarks

curves: $(VENV)/.installed
	$(BIN)/anyflow-rt bench --from docs/results/shipped.json --series forward-only=docs/results/forward-only.json \
		--series teacher=docs/results/teacher.json --report curves-report

clean:
	rm -rf $(VENV) build *.egg-info demo.mp4 demo.png demo-stream.mp4 demo-stream.png bench-report curves-report
