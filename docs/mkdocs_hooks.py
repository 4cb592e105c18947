"""What MkDocs needs to know of this repository: pages outside docs/, and how docstrings here are laid out."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
ADDED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CITATION.cff": "CITATION.cff",
}
"""Files of the repository's root -> where they lie in the site, beside the pages of docs/."""


def on_files(files, config):
    """Add the files of the root."""
    for name, place in ADDED.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, **_):
    """Let links between docs/ and the root lead to where the pages lie in the site."""
    markdown = re.sub(r"\]\((?:docs/|\.\./)", "](", markdown).replace("](README.md", "](index.md")
    # Outside of code F[k][j] would be a link by reference, of which there are none.
    return re.sub(r"(?m)^(?! {4}).*", lambda line: line[0].replace("][", "]\\["), markdown)


def as_markdown(docstring: str) -> str:
    """A docstring as Markdown: ``name : meaning`` becomes a definition, and ``>>>`` a block of code."""
    lines, code = [], False
    for line in docstring.splitlines():
        if line.startswith(">>>") and not code:
            lines += ["", "```pycon"]
            code = True
        elif code and not line:
            lines += ["```"]
            code = False
        if found := None if code else re.match(r"(\w+(?:, \w+)*) : (.*)", line):
            lines += ["", f"`{found[1]}`", f":   {found[2]}"]
        elif not code and line.startswith(("Raises ", "Source: ", "Equal arguments ")):
            lines += ["", line]
        else:
            lines += [line]
    return "\n".join([*lines, "```"] if code else lines)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is rendered, and finds what lies beside egg/ in a checkout."""

    def on_object(self, *, obj, **_):
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_package(self, *, pkg, loader, **_):
        """Called for each package that is loaded."""
        if pkg.path == "egg":
            pkg.set_member("kernels", loader.load("kernels"))
