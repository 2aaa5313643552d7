# make demo, make test, make lint: the first time, each installs what it needs into .venv (Python 3.11 to 3.13).
# make demo PYTHON=/path/to/python chooses the Python. make clean removes what these made.

VENV := .venv
IN_VENV := $(VENV)/bin/python
PYTHON := python3.11 python3.12 python3.13 python3

.PHONY: demo test lint clean

demo: $(VENV)/installed-requirements
	$(IN_VENV) batch_inference.py --checkpoint_path weights/warp.weights.h5 --face examples/astronaut.jpg \
		--audio examples/speech.wav --outfile results/demo.mp4 --overwrite

test: $(VENV)/installed-requirements-dev
	$(IN_VENV) -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-requirements-dev
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache __pycache__ tests/__pycache__ results/demo.mp4

$(VENV)/installed-requirements-dev: $(VENV)/installed-requirements

# The file "installing" lies there while pip works. Found at the start, it tells that an install was broken off, after
# which no package can be trusted, and the folder is made anew (pip still has what it downloaded).
$(VENV)/installed-%: %.txt
	@if [ -e $(VENV)/installing ] || ! $(IN_VENV) -c 'import pip; $(USABLE)' 2>/dev/null; then $(MAKE_VENV); fi
	@touch $(VENV)/installing
	$(IN_VENV) -m pip install --disable-pip-version-check -r $<
	@rm $(VENV)/installing
	@touch $@

# A command can be there and not run: pyenv puts one for every version it knows, and Debian's lacks the venv package.
USABLE := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

define MAKE_VENV
for python in $(PYTHON); do \
	if "$$python" -c '$(USABLE)' 2>/dev/null; then \
		echo "$$python makes $(VENV)"; "$$python" -m venv --clear $(VENV); exit; \
	fi; \
done; \
echo "make: none of $(PYTHON) runs as Python 3.11, 3.12 or 3.13 with venv; install one," \
	"or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
exit 1
endef
