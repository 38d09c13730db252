"""Writes the repository's address into every lesson: the set-up cell, and the badge that opens the lesson in Colab.

python .ci/badges.py [--check]      with --check nothing is written; exit status 1 if a lesson is not as it should be

The address is pyproject.toml's: [project.urls] Repository. Without one the set-up cell on Colab says what to fill in,
and there is no badge; nor is there one for an address outside github.com, since no link opens it in Colab. The text of
the set-up cell is kept here, once for all lessons.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAG = "nbval-ignore-output"  # of the set-up cell: what it prints differs by machine

# Standard library only, until the package is there. No terminal and no input for pip and git: nothing can ask and wait.
CELL = """\
import subprocess
import sys

ADDRESS = {address}  # the course's, for Colab; `make badges` writes it here
try:
    from spectralkd_nb import course
except ModuleNotFoundError as missing:  # Colab copies the notebook alone
    if missing.name != "spectralkd_nb" or not ADDRESS:
        how = "On Colab put the repository's address, https://..., in the quotes after ADDRESS and run this cell again."
        raise RuntimeError(f"{{missing}}. {{how}} Elsewhere install the course first, as its README.md says.") from None
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]  # Colab's own torch, numpy and ipywidgets stay
    subprocess.run([*pip, f"spectralkd_nb @ git+{{ADDRESS}}"], check=True, input=b"", start_new_session=True)
    from spectralkd_nb import course

lesson = course.start()"""

IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
BADGE = "[![Open In Colab]({image})](https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
BADGE_LINE = re.compile(rf"^\[!\[[^\]]*\]\({re.escape(IMAGE)}\)\]\([^)]*\)\n*", re.MULTILINE)


class Complaint(Exception):
    """What is wrong, in one sentence for the person."""


def address(root: Path = ROOT) -> str:
    """The repository's address in pyproject.toml; empty if there is none."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    found = project.get("urls", {}).get("Repository", "").strip()
    if found and not re.fullmatch(r"https?://[^\s\"'\\]+", found):
        raise Complaint(f"pyproject.toml: Repository = {found!r} is not an address that starts with https://")
    return found


def setup_cell(address: str) -> str:
    return CELL.format(address=json.dumps(address))


def badge(address: str, name: str) -> str:
    """The line that opens a notebook in Colab; empty if the address is not on github.com."""
    github = re.fullmatch(r"https?://(?:www\.)?github\.com/([^/]+/[^/]+?)(?:\.git)?/?", address)
    return BADGE.format(image=IMAGE, repository=github[1], name=name) if github else ""


def update(notebook: dict, address: str, name: str) -> list[str]:
    """Write both into a notebook as json gives it; what was changed, in words."""
    changed = []
    text = next((cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"), None)
    code = next((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), None)
    if code is None or TAG not in code["metadata"].get("tags", []):
        raise Complaint(f"{name}: the first code cell has no tag {TAG}, so it is no set-up cell; nothing is written")
    if text is None:
        raise Complaint(f"{name}: there is no text cell for the badge; nothing is written")

    if "".join(code["source"]) != setup_cell(address):
        code["source"] = setup_cell(address).splitlines(keepends=True)
        code["outputs"], code["execution_count"] = [], None  # they were another cell's
        changed.append("set-up cell")

    old = "".join(text["source"])
    title, _, rest = BADGE_LINE.sub("", old).partition("\n")
    line = badge(address, name)
    new = f"{title}\n\n{line}\n\n{rest.lstrip()}" if line else f"{title}\n{rest}"
    if new.strip() != old.strip():
        text["source"] = new.rstrip().splitlines(keepends=True)
        changed.append("badge" if line else "badge taken out")
    return changed


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="write the repository's address into every lesson")
    parser.add_argument("--check", action="store_true", help="write nothing, and say which lesson is not up to date")
    check = parser.parse_args(arguments).check
    try:
        where = address(root)
        paths = sorted((root / "notebooks").glob("*.ipynb"))
        lessons = [(path, json.loads(path.read_text("utf-8"))) for path in paths]
        changes = [update(notebook, where, path.name) for path, notebook in lessons]  # all, before any is written
    except Complaint as complaint:
        print(complaint, file=sys.stderr)
        return 1

    if check:
        for (path, _), changed in zip(lessons, changes, strict=True):
            if changed:
                print(f"{path.name} is not up to date ({', '.join(changed)}): run `make badges`", file=sys.stderr)
        return int(any(changes))

    print(f"address: {where or 'none; name one in pyproject.toml, [project.urls] Repository'}")
    for (path, notebook), changed in zip(lessons, changes, strict=True):
        if changed:  # as nbformat writes, but with the keys in the order they had
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8", newline="\n")
        print(f"{path.name}: {', '.join(changed) or 'up to date'}")
    if any("set-up cell" in changed for changed in changes):
        print("The output of a changed set-up cell is gone: run `make notebooks`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
