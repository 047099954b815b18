"""The site, built by `make docs` into docs/_build/html: nothing is fetched, neither by the build nor by a reader."""

import os
import sys
import typing
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))
typing.GENERATING_DOCUMENTATION = "roformer_jax"  # jaxtyping then gives its types their short names

from roformer_jax import __version__  # noqa: E402

# What the notebooks see: this environment's python first, the helpers of the site, and no accelerator.
os.environ |= {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONPATH": str(DOCS),
    "JUPYTER_PATH": str(DOCS / "site_parts" / "jupyter"),
    "JAX_PLATFORMS": "cpu",
}

project = "roformer_jax"
author = "the roformer_jax authors"
copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_parts.docstrings",
    "site_parts.mathml",
    "site_parts.mermaid",
    "site_parts.repository_links",
]
exclude_patterns = ["_build", "examples", "results"]
nitpicky = True
suppress_warnings = ["ref.python"]  # "length" in the shape of an array is no reference to a field of that name
nitpick_ignore_regex = [("py:.*", ".*")]  # types of signatures: of other libraries, or inside this one

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # would come from elsewhere

napoleon_use_ivar = True  # fields that a docstring lists are not described twice
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "undoc-members": True}
html_math_renderer = "mathml"

html_theme = "sphinx_book_theme"
html_title = "roformer_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
}
