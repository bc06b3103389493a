"""Sphinx's settings of the site; `make site` builds it, offline."""

import importlib.metadata
import os
import sys
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "notebooks")]

import launch  # noqa: E402

PACKAGE = importlib.metadata.metadata("minilora")  # as installed: the code that the pages import
# The one address. With it a notebook's page has buttons; without it there are none.
ADDRESS = launch.address()
BRANCH = quote(os.environ.get("MINILORA_BRANCH", "main"), safe="")  # one part of a path

project, version = "minilora", PACKAGE["Version"]
author = copyright = PACKAGE["Author"]
extensions = ["myst_nb", "sphinx.ext.mathjax", "mathematics"]
root_doc = "index"

nb_execution_mode = "off"  # the notebooks are shown as committed
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

html_theme = "sphinx_book_theme"
html_title = "minilora"
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_context = {"default_mode": "auto"}
html_show_search_summary = False  # it would fetch pages, which a browser forbids without a server
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search stands in the sidebar; the theme would add it here, too
    "show_toc_level": 2,
    "extra_footer": f"minilora {version}",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if ADDRESS:
    html_theme_options |= {
        "repository_url": ADDRESS,
        "repository_branch": BRANCH,
        "use_repository_button": True,
        "launch_buttons": {"binderhub_url": "https://mybinder.org"},
    }
    if launch.ready(ADDRESS):  # what Colab opens has to install minilora itself
        colab = {"colab_url": "https://colab.research.google.com"}
        html_theme_options["launch_buttons"] |= colab

# One file that makes every formula, copied into the site
MATHJAX = "tex-svg-full.js"
mathjax_path = f"mathjax/{MATHJAX}"
mathjax3_config = {"svg": {"fontCache": "local"}}


def mathjax_file() -> Path:
    """MathJax 3 as one file, out of the package of PyPI that carries it."""
    files = importlib.metadata.files("sphinx-mathjax-offline") or []
    return Path(next(f.locate() for f in files if f.name == MATHJAX))
