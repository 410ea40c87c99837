"""How the documentation site is built: `make docs`."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "Nebula"
author = "The Nebula authors"
release = version = metadata.version("nebula-serving")

extensions = ["myst_parser", "sphinx_click", "sphinxcontrib.mermaid", "nebula_reference"]
exclude_patterns = ["_build"]
# Links to files of the repository are checked by tests/unit/test_docs.py.
suppress_warnings = ["myst.xref_missing"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

smartquotes = False  # `--option` stays two hyphens

html_theme = "furo"
html_title = "Nebula"
html_static_path = ["_static"]
html_css_files = ["nebula.css"]
html_show_copyright = False

mermaid_height = "auto"
mermaid_fullscreen = False
