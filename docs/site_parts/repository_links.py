"""Links that are right in the repository, and lead out of docs/, lead to a page of the site."""

from sphinx.application import Sphinx

PAGES = {"tpu_setup/README.md": "tpu_setup.md"}


def process(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrites the links of a page's source in place."""
    up = "../" * page.count("/")
    for file, target in PAGES.items():
        source[0] = source[0].replace(f"]({up}../{file}", f"]({up}{target}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the rewriting."""
    app.connect("source-read", process)
    return {"parallel_read_safe": True}
