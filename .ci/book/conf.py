"""Sphinx's settings for the book; `.ci/book.py` puts the pages together and calls Sphinx."""

from pathlib import Path

import jupyter_server_mathjax

from spectralkd_nb import __version__

project = "spectralkd_nb"
author = "spectralkd_nb authors"
release = version = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]  # a title of level 3 may follow one of level 1

# --- lessons ---
nb_execution_mode = "off"  # the outputs are the committed ones
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
math_eqref_format = "{number}"

# MathJax comes with the book, so that equations are seen without a network.
html_static_path = ["_static", str(Path(jupyter_server_mathjax.__file__).parent / "static")]
mathjax_path = "MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"
mathjax2_config = {
    "jax": ["input/TeX", "output/HTML-CSS"],
    "tex2jax": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]], "processClass": "math"},
    "HTML-CSS": {"availableFonts": [], "webFont": "STIX-Web", "imageFont": None, "linebreaks": {"automatic": True}},
    "messageStyle": "none",
}

# --- the package's page ---
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # of torch's modules
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
default_role = "code"  # `name` in a docstring
add_module_names = False
toc_object_entries_show_parents = "hide"  # `update()` fits beside the page, `SpectrumAccumulator.update()` does not

# --- looks ---
html_theme = "sphinx_book_theme"
html_title = "spectralkd_nb"
html_css_files = ["book.css"]
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}  # dark where the reader's system is
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "navbar_start": [],  # a second field of search, above the one in the sidebar
    "navbar_persistent": [],
    "navbar_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
