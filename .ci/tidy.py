"""Takes out of stored notebooks what only a running kernel can show: python .ci/tidy.py NOTEBOOK...

A widget is stored as a reference to an object of the kernel. Without that kernel JupyterLab shows "model not found" in
its place; without the reference it shows the widget's text, which says what to do.
"""

import sys
from pathlib import Path

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"


def tidy(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET, None):
                output.metadata["widget"] = True  # for the guard that no widget's text counts as a checked number
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        tidy(Path(name))
