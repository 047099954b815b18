"""What the notebooks of the site need besides the package: a checkout to work in, figures, and recorded results."""

import io
import re
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path

from IPython import get_ipython
from IPython.display import HTML, Markdown
from matplotlib.figure import Figure

from roformer_jax.report.figures import COLOURS, themed_figure

ROOT = Path(__file__).parents[2]


def bash(line: str, commands: str) -> None:
    """The cell magic %%bash: prints all that the commands print as one text; the first to fail ends the build."""
    strict = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(strict, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    done.check_returncode()


def checkout() -> None:
    """Makes the working folder look like the root of a checkout, in which the commands of the tutorials are given."""
    get_ipython().register_magic_function(bash, "cell")
    for name in ("train.py", "configs", "docs", "tpu_setup"):
        Path(name).symlink_to(ROOT / name)


def figure(draw: Callable[[Figure], None], caption: str, *, width: float = 5.2, height: float = 3.0) -> HTML:
    """Returns a figure, of a size in inches, as SVG within the page, in the colours and font of the theme."""
    buffer = io.StringIO()
    with themed_figure(width, height) as drawn:
        draw(drawn)
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    name = re.sub(r"\W+", "-", caption.lower())[:40]
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("</metadata>") + len("</metadata>") :])
    for colour, on_paper in COLOURS.items():
        body = body.replace(on_paper, f"var(--figure-{colour})")
    return HTML(
        f'<figure class="drawn"><svg {view_box} style="max-width: {width}in" role="img" aria-label="{escape(caption)}">'
        f"{body}<figcaption>{escape(caption)}</figcaption></figure>"
    )


def recorded(name: str) -> Markdown:
    """Returns the text and tables of a section of docs/results.md; one that is not there is said to be missing."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", page, re.DOTALL)
    if section is None:
        return Markdown(f"**Not measured yet:** the page of results has no section `{name}`.")
    kept = [part for part in section[1].strip().split("\n\n") if not part.startswith(("#", "!"))]
    return Markdown("\n\n".join(kept))
