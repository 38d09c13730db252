# The two commands: `make lab` opens the course, `make test` runs every check. `make` alone lists the rest.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
LAB_OPTIONS ?=
PROCESSES ?= 2

# Measured on Linux, where torch brings CUDA. README.md says the same; a test compares them.
DOWNLOAD := 3.2 GB
DISK := 6.4 GB
COLAB_DOWNLOAD := 160 MB
COLAB_DISK := 800 MB

# How several processes share the tests: a file each at a time, in the order of tests/conftest.py.
SHARED = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RAY := $(VENV)/.ray
BOOK := $(VENV)/.book
COLAB := $(VENV)-colab

# What the tools remember stays in the repository, in a folder that git ignores.
export IPYTHONDIR := $(CURDIR)/.state/ipython
export JUPYTER_CONFIG_DIR := $(CURDIR)/.state/jupyter
export JUPYTER_DATA_DIR := $(CURDIR)/.state/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.state/jupyter/runtime
export MPLCONFIGDIR := $(CURDIR)/.state/matplotlib

.PHONY: help lab test notebooks badges answers book pictures test-colab bench format clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "PYTHON=python3.12   another Python, 3.11 or newer (for the first installation)"
	@echo "VENV=.venv          another folder for the virtual environment"
	@echo "TORCH_INDEX=        address of another package index for torch and torchvision, for example with CPU builds"
	@echo "LAB_OPTIONS=        options of jupyter lab, for example --no-browser"
	@echo "PROCESSES=2         how many share the tests of make test"

lab: $(INSTALLED) ## open the course in JupyterLab
	$(BIN)/jupyter-lab $(LAB_OPTIONS) notebooks

# One thread for each process: two of them with two threads each are several times slower on two cores.
test: export OMP_NUM_THREADS = 1
test: $(INSTALLED) $(RAY) $(BOOK) ## run every check: lint, format, unit tests, the notebooks' outputs
	@ls notebooks/*.ipynb >/dev/null 2>&1 || { echo "notebooks/ holds no notebook, so there is nothing to test."; exit 1; }
	@echo "--- lint"
	$(BIN)/ruff check .
	@echo "--- format"
	$(BIN)/ruff format --check .
	@echo "--- unit tests, and the notebooks run again and their printed outputs compared"
	$(BIN)/pytest $(SHARED) --nbval --nbval-current-env tests notebooks

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
	$(BIN)/python .ci/tidy.py notebooks/*.ipynb

badges: $(INSTALLED) ## write the repository's address (pyproject.toml) into the lessons' set-up cells and Colab badges
	$(BIN)/python .ci/badges.py

answers: $(INSTALLED) ## make the teacher's copy of the lessons, exercises solved, in build/answers
	$(BIN)/python .ci/answers.py

book: $(BOOK) ## make a web book of the course, in build/book/html
	$(BIN)/python .ci/book.py

pictures: $(INSTALLED) ## draw the README's picture and animation, in notebooks/pictures
	$(BIN)/python .ci/pictures.py

# Colab itself cannot be had here. Its versions of kernel, widgets, matplotlib and numpy can; its own page is not tried.
test-colab: export OMP_NUM_THREADS = 1
test-colab: export IPYTHONDIR := $(CURDIR)/.state/ipython7
test-colab: $(COLAB)/.installed ## run the notebooks and the widgets' tests with packages of Colab's generation
	$(COLAB)/bin/pytest $(SHARED) --nbval --nbval-current-env -p no:cacheprovider tests/test_widgets.py notebooks

bench: $(INSTALLED) ## measure the speed
	$(BIN)/pytest -s tests/benchmarks

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

# Only for the tests, and those of a grid on Ray are skipped where it has no build for the Python that is here.
$(RAY): $(INSTALLED)
	@$(BIN)/python -m pip install --editable '.[ray]' || echo "Ray was not installed, so its tests are skipped."
	@touch $@

$(BOOK): $(INSTALLED)
	@$(BIN)/python -m pip install --editable '.[book]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed, and $(PYTHON) is none; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv first."; exit 1; }

FOLDER := import sysconfig; print(sysconfig.get_path("platlib"))

# Everything is installed anew but torch and its libraries, 3 GB, which are borrowed from $(VENV) by links in a folder of
# their own: pip finds them installed, and its second constraint makes it stop rather than download another torch. The
# whole of $(VENV) behind the new packages would be less to write, but there a package that Colab's generation lacks
# would be found in the newer one, and the test would pass.
$(COLAB)/.installed: .ci/colab.txt $(INSTALLED)
	@echo "Installing into $(COLAB): about $(COLAB_DOWNLOAD) to download, $(COLAB_DISK) on disk; torch stays that of $(VENV)."
	@$(BIN)/python -m venv --clear $(COLAB)
	@mkdir $(COLAB)/torch
	@find "$$($(BIN)/python -c '$(FOLDER)')" -maxdepth 1 \
	    '(' -name 'torch*' -o -name functorch -o -name 'triton*' -o -name 'nvidia*' -o -name 'cuda*' ')' \
	    -exec ln -s '{}' $(COLAB)/torch/ ';'
	@echo "$(abspath $(COLAB))/torch" > "$$($(COLAB)/bin/python -c '$(FOLDER)')/torch.pth"
	@$(BIN)/python -m pip list --format=freeze | grep '^torch' > $(COLAB)/torch.txt
	@$(COLAB)/bin/python -m pip install --constraint .ci/colab.txt --constraint $(COLAB)/torch.txt --editable '.[test]'
	@$(COLAB)/bin/python -c 'import matplotlib.font_manager'
	@touch $@
