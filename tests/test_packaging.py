"""What surrounds the code: the two commands, the list of dependencies, the wheel, and which module may import which."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "spectralkd_nb"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DOWNLOAD, DISK = re.findall(r"^(?:DOWNLOAD|DISK) := (.+)$", MAKEFILE, re.MULTILINE)

CONDA_NAMES = {"matplotlib": "matplotlib-base", "torch": "pytorch"}  # where conda-forge's name is another one

# A module imports only what stands before it. Up to PLOTS they compute; from PLOTS on they show.
ORDER = (
    "__init__",
    "storage",
    "names",
    "spectra",
    "pictures",
    "calibration",
    "operations",
    "networks",
    "datasets",
    "activations",
    "depth_law",
    "losses",
    "adaptation",
    "teacher_quality",
    "distillation",
    "experiments",
    "plots",
    "widgets",
    "course",
    "__main__",
)
MODULES = sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
COMPUTES = [module for module in ORDER[: ORDER.index("plots")] if module in MODULES]


# --- the two commands ----------------------------------------------------------------------------


def first_commands() -> list[str]:
    """The commands in the README's first block of code."""
    return README.split("```", 2)[1].split("\n", 1)[1].split("\n")[:-1]


def test_the_readme_leads_with_the_two_commands():
    assert first_commands() == ["make lab", "make test"]


def test_continuous_integration_runs_the_readmes_test_command():
    run = ROOT / ".ci" / "run"
    assert run.read_text().splitlines()[-1] == first_commands()[-1]
    assert run.stat().st_mode & stat.S_IXUSR


def test_the_readme_says_the_sizes_that_make_says():
    assert f"{DOWNLOAD} to download, {DISK} on disk" in " ".join(README.split())


def test_the_readme_lists_the_lessons_that_exist():
    lessons = sorted(name for name in files_of("notebooks") if name.endswith(".ipynb"))
    assert re.findall(r"\]\((notebooks/\S+\.ipynb)\)", README) == lessons


def test_the_guide_gives_the_checks_of_make_test():
    recipe = MAKEFILE.partition("\ntest: $(INSTALLED)")[2].partition("\n\n")[0]
    checks = re.findall(r"^\t\$\(BIN\)/(.+)$", recipe, re.MULTILINE)
    checks = [check.replace(" $(SHARED)", "") for check in checks]  # in one process
    assert "\n".join(checks) in (ROOT / "notebooks" / "guide.md").read_text()


def test_every_option_of_make_is_in_its_help():
    options = re.findall(r"^(\w+) \?=", MAKEFILE, re.MULTILINE)
    assert set(options) == set(re.findall(r'^\t@echo "(\w+)=', MAKEFILE, re.MULTILINE))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make as a person would, even inside `make test`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_an_old_python_is_refused_in_one_sentence(tmp_path):
    old = script(tmp_path / "old-python", "exit 1")
    done = make("lab", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert f"Python 3.11 or newer is needed, and {old} is none; name one: make lab PYTHON=" in done.stdout
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_a_python_without_venv_is_refused_in_one_sentence(tmp_path):
    # Debian's leaves a folder with a python and no pip behind; the second try must not take it for an environment.
    lame = script(tmp_path / "python", f'[ "$2" = venv ] && mkdir -p {tmp_path}/venv/bin && exit 1; exit 0')
    for _ in range(2):
        done = make("lab", f"PYTHON={lame}", f"VENV={tmp_path}/venv")
        assert done.returncode != 0
        assert "could not make a virtual environment; on Debian and Ubuntu install python3-venv" in done.stdout


@pytest.fixture
def pretended(tmp_path):
    """A virtual environment whose programs only write down how they were called, and a function that reads it."""
    log = tmp_path / "log"
    bin_folder = tmp_path / "venv" / "bin"
    script(bin_folder / "pip", "exit 0")
    script(bin_folder / "python", f'echo "python $@" >> {log}; [ "$3" != show ]')
    script(bin_folder / "jupyter-lab", f'echo "jupyter-lab $@" >> {log}')

    def calls() -> list[str]:
        lines = log.read_text().splitlines()
        log.unlink()
        return lines

    return f"VENV={tmp_path}/venv", calls


def test_make_lab_says_what_it_downloads_then_installs_then_opens(pretended):
    venv, calls = pretended
    done = make("lab", venv)
    assert done.returncode == 0, done.stderr
    assert f"{DOWNLOAD} to download, {DISK} on disk" in done.stdout
    _, install, _, opened = calls()
    assert install == "python -m pip install --editable .[lab,test]"
    assert opened == "jupyter-lab notebooks"


def test_a_second_make_lab_only_opens(pretended):
    venv, calls = pretended
    make("lab", venv)
    calls()
    done = make("lab", venv, "LAB_OPTIONS=--no-browser")
    assert calls() == ["jupyter-lab --no-browser notebooks"]
    assert "download" not in done.stdout


def test_another_index_is_for_torch_and_torchvision_only(pretended):
    venv, calls = pretended
    make("lab", venv, "TORCH_INDEX=https://example.org/cpu")
    installs = [call for call in calls() if " install " in call]
    assert installs == [
        "python -m pip install --index-url https://example.org/cpu torch torchvision",
        "python -m pip install --editable .[lab,test]",
    ]


# --- the list of dependencies --------------------------------------------------------------------


def name_and_bound(requirement: str) -> tuple[str, str]:
    return re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", requirement).groups()


def conda_dependencies() -> list[str]:
    lines = (ROOT / "environment.yml").read_text().split("dependencies:\n")[1].splitlines()
    return [line.removeprefix("  - ").split(" #")[0] for line in lines if line.startswith("  - ")]


def test_environment_yml_names_the_same_dependencies():
    _, pip, *packages, last = conda_dependencies()
    wanted = [name_and_bound(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]]
    assert {name_and_bound(p) for p in packages} == {(CONDA_NAMES.get(name, name), bound) for name, bound in wanted}
    assert len(packages) == len(wanted)
    assert (pip, last) == ("pip", "pip:")


def test_environment_yml_installs_the_package_itself():
    assert (ROOT / "environment.yml").read_text().endswith("\n  - pip:\n      - -e .\n")


def test_environment_yml_names_a_python_that_the_project_takes():
    version = re.fullmatch(r"python=3\.(\d+)", conda_dependencies()[0])[1]  # Binder understands no other form
    assert int(version) >= int(PROJECT["requires-python"].removeprefix(">=3."))


def test_nothing_is_pinned():
    listed = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    assert [r for r in listed if not re.fullmatch(r"(>=[\d.]+)?", name_and_bound(r)[1])] == []
    assert "ipywidgets>=7.7.1" in PROJECT["dependencies"]  # Colab's


def test_the_licence_is_mit():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == text.split()[0] == "MIT"
    assert "spectralkd_nb authors" in text


@pytest.mark.parametrize("folder", [".venv", ".state", ".pytest_cache", ".ruff_cache", ".hypothesis", "dist"])
def test_git_ignores_what_the_commands_make(folder):
    patterns = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith("/")]
    assert any(fnmatch(folder, pattern) for pattern in patterns)


# --- what is built -------------------------------------------------------------------------------


def built_wheel(folder: Path) -> zipfile.ZipFile:
    """The package's wheel, made into a folder without the network."""
    code = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return zipfile.ZipFile(folder / done.stdout.splitlines()[-1])


def files_of(folder: str) -> set[str]:
    paths = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    left = (".", "__pycache__", "runs")  # runs: what a lesson has trained here
    return {path.as_posix() for path in paths if not any(part.startswith(left) for part in path.parts)}


def test_the_wheel_holds_the_package_and_its_data(tmp_path):
    pytest.importorskip("hatchling")
    wheel = built_wheel(tmp_path)
    data = {f"spectralkd_nb/{name}" for name in files_of("data")}
    assert data
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == files_of("spectralkd_nb") | data

    wheel.extractall(tmp_path)
    code = "from spectralkd_nb import data_path; print(data_path('README.md'))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert Path(found.strip()) == (tmp_path / "spectralkd_nb/data/README.md").resolve()


def test_an_editable_installation_copies_nothing():
    try:
        installed = importlib.metadata.distribution("spectralkd_nb")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed here")
    if not json.loads(installed.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        pytest.skip("the package is installed, but not as an editable one")
    outside = [str(path) for path in installed.files if path.suffix != ".pth" and ".dist-info" not in path.parts[0]]
    assert outside == [], "if pyproject.toml has changed since: pip install -e . --no-deps"


# --- which module imports which ------------------------------------------------------------------


def imported_modules(source: str, known: list[str]) -> Iterator[str]:
    """The modules of the package that a source imports, wherever in it; the package's own names count as __init__."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "the package imports by full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == PACKAGE.name:
                module = rest.split(".")[0]
                yield module if module in known else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_earlier_ones(module):
    assert module in ORDER, f"{module} has no place in ORDER; give it one, in DESIGN's order"
    folder = PACKAGE / module
    sources = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    allowed = {*ORDER[: ORDER.index(module)], *([module] if folder.is_dir() else [])}
    for source in sources:
        assert set(imported_modules(source.read_text(), MODULES)) <= allowed, source.name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import spectralkd_nb.plots as p", "plots"),
        ("from spectralkd_nb import plots", "plots"),
        ("from spectralkd_nb.plots import gallery", "plots"),
        ("from spectralkd_nb import data_path", "__init__"),
        ("def f():\n    import spectralkd_nb.plots", "plots"),
    ],
)
def test_every_way_to_import_is_seen(source, expected):
    assert list(imported_modules(source, ["__init__", "plots"])) == [expected]


ALONE = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is not on a bare machine", name=name)

sys.meta_path.insert(0, Blocked())
for module in {modules}:
    importlib.import_module("spectralkd_nb" if module == "__init__" else f"spectralkd_nb.{{module}}")

import torch
from spectralkd_nb.spectra import spectral_exponent
maps = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
print(spectral_exponent(maps, edges="none").alpha)
"""
BLOCKED = {"torchvision", "safetensors", "pandas", "skimage", "matplotlib", "seaborn", "ipywidgets", "IPython", "scipy"}
BLOCKED |= {"pyarrow", "PIL", "tqdm", "filelock", "ray"}


def test_what_computes_needs_only_torch_and_numpy():
    code = ALONE.format(blocked=BLOCKED, modules=COMPUTES)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(0, abs=0.1)  # white noise


def test_the_blocked_packages_are_all_but_torch_and_numpy():
    import_names = {"pillow": "PIL", "scikit-image": "skimage", "ipython": "IPython"}
    listed = {name_and_bound(requirement)[0] for requirement in PROJECT["dependencies"]} - {"torch", "numpy"}
    assert {import_names.get(name, name) for name in listed} <= BLOCKED
