# The two commands: `make lab` opens the course, `make test` runs every check. `make` alone lists the rest.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
LAB_OPTIONS ?=

# Measured on Linux, where torch brings CUDA. README.md says the same; a test compares them.
DOWNLOAD := 3.2 GB
DISK := 6.4 GB

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# What the tools remember stays in the repository, in a folder that git ignores.
export IPYTHONDIR := $(CURDIR)/.state/ipython
export JUPYTER_CONFIG_DIR := $(CURDIR)/.state/jupyter
export JUPYTER_DATA_DIR := $(CURDIR)/.state/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.state/jupyter/runtime
export MPLCONFIGDIR := $(CURDIR)/.state/matplotlib

.PHONY: help lab test notebooks bench format clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "PYTHON=python3.12   another Python, 3.11 or newer (for the first installation)"
	@echo "VENV=.venv          another folder for the virtual environment"
	@echo "TORCH_INDEX=        address of another package index for torch and torchvision, for example with CPU builds"
	@echo "LAB_OPTIONS=        options of jupyter lab, for example --no-browser"

lab: $(INSTALLED) ## open the course in JupyterLab
	$(BIN)/jupyter-lab $(LAB_OPTIONS) notebooks

test: $(INSTALLED) ## run every check: lint, format, unit tests, the notebooks' outputs
	@ls notebooks/*.ipynb >/dev/null 2>&1 || { echo "notebooks/ holds no notebook, so there is nothing to test."; exit 1; }
	@echo "--- lint"
	$(BIN)/ruff check .
	@echo "--- format"
	$(BIN)/ruff format --check .
	@echo "--- unit tests, and the notebooks run again and their printed outputs compared"
	$(BIN)/pytest --nbval --nbval-current-env tests notebooks

# Nothing of the machine or the moment is kept, so that two runs make the same file: no widget state, no timings, no
# version of Python, and what a cell prints in one piece.
notebooks: $(INSTALLED) ## run every notebook from a fresh kernel and store its outputs
	$(BIN)/jupyter-nbconvert --to notebook --inplace --execute \
	    --ExecutePreprocessor.kernel_name=python3 \
	    --ExecutePreprocessor.store_widget_state=False \
	    --ExecutePreprocessor.record_timing=False \
	    --NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor \
	    --ClearMetadataPreprocessor.enabled=True \
	    --ClearMetadataPreprocessor.preserve_cell_metadata_mask='{"cellView", "jupyter", "tags"}' \
	    --ClearMetadataPreprocessor.preserve_nb_metadata_mask='{"kernelspec", ("language_info", "name")}' \
	    notebooks/*.ipynb

bench: $(INSTALLED) ## measure the speed
	$(BIN)/pytest tests/benchmarks

format: $(INSTALLED) ## format the code and the notebooks' cells, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build outputs; the environment and its settings stay (folders .venv and .state)
	rm -rf build dist .benchmarks .hypothesis .pytest_cache .ruff_cache *.egg-info
	find spectralkd_nb tests notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

# The last line fills matplotlib's font cache, which otherwise announces itself in the first notebook that draws.
$(INSTALLED): pyproject.toml | $(BIN)/pip
	@$(BIN)/python -m pip show --quiet torch 2>/dev/null || \
	    echo "Installing into $(VENV): about $(DOWNLOAD) to download, $(DISK) on disk (measured on Linux)."
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) torch torchvision)
	@$(BIN)/python -m pip install --editable '.[lab,test]' || \
	    { echo "The installation did not finish. The same command continues it, with what was downloaded."; exit 1; }
	@$(BIN)/python -c 'import matplotlib.font_manager'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed, and $(PYTHON) is none; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv first."; exit 1; }
