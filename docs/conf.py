"""How the site is built: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import gristmill

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Gristmill"
author = "The Gristmill authors"
copyright = "The Gristmill authors. Apache-2.0"
version = release = gristmill.__version__

extensions = ["from_code", "myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]

html_theme = "furo"
html_title = "Gristmill"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#2a6f5e",
        "color-brand-content": "#2a6f5e",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fc8b2",
        "color-brand-content": "#7fc8b2",
    },
}

# Docstrings are plain text in which `x` is code.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
add_module_names = False
nitpicky = True
# Types of other projects, and those of ours that have no place on the page of front doors.
nitpick_ignore_regex = [(r"py:(class|obj|exc|data)", r"(?!gristmill\.errors\b).*")]
