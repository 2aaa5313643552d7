# make demo, app, test and lint install what they need into .venv on first use (Python 3.11 to 3.13): demo only
# requirements-inference.txt, app requirements-app.txt, the others everything. make demo PYTHON=/path/to/python chooses
# the Python. make app ARGS="--port 8000" gives options to app.py. make clean removes what they made.

VENV := .venv
IN_VENV := $(VENV)/bin/python
PYTHON := python3.11 python3.12 python3.13 python3

.PHONY: demo app test lint clean

demo: $(VENV)/installed-requirements-inference
	$(IN_VENV) batch_inference.py --checkpoint_path weights/warp.weights.h5 --face examples/astronaut.jpg \
		--audio examples/speech.wav --outfile results/demo.mp4 --overwrite

app: $(VENV)/installed-requirements-app
	$(IN_VENV) app.py $(ARGS)

test: $(VENV)/installed-requirements-dev
	$(IN_VENV) -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-requirements-dev
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache lipgan.egg-info results/demo.mp4
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/installed-requirements-dev: $(VENV)/installed-requirements
$(VENV)/installed-requirements: $(VENV)/installed-requirements-inference
$(VENV)/installed-requirements-app: $(VENV)/installed-requirements-inference

# The file "installing" exists while pip works. When it is found at the start, an install was interrupted: packages may
# be incomplete, and the environment is created again (from pip's cache).
$(VENV)/installed-%: %.txt
	@if [ -e $(VENV)/installing ] || ! $(IN_VENV) -c 'import pip; $(USABLE)' 2>/dev/null; then $(MAKE_VENV); fi
	@touch $(VENV)/installing
	$(IN_VENV) -m pip install --disable-pip-version-check -r $<
	@rm $(VENV)/installing
	@touch $@

# A command can exist and fail: pyenv has one for every version it knows, and Debian's may lack the venv package.
USABLE := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

define MAKE_VENV
for python in $(PYTHON); do \
	if "$$python" -c '$(USABLE)' 2>/dev/null; then \
		echo "creating $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); exit; \
	fi; \
done; \
echo "make: none of $(PYTHON) runs as Python 3.11, 3.12 or 3.13 with venv; install one," \
	"or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
exit 1
endef
