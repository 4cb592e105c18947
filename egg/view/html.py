"""Self-contained HTML pages: style, script and data in one file, nothing fetched, every text escaped."""

import html
import json
from importlib.resources import files
from typing import Any


def asset(name: str) -> str:
    """A file of egg/view/assets."""
    return (files("egg.view") / "assets" / name).read_text(encoding="utf-8")


def build(title: str, body: str, data: Any, styles: list[str], script: str) -> str:
    """An HTML page.

    title : text, not markup
    body : markup, with every text in it escaped
    data : JSON for the script
    styles, script : names of assets
    """
    # Only "<" could end a script element or begin a comment in it.
    encoded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    style = "\n".join(map(asset, styles))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{encoded}</script>
<script>
{asset(script)}</script>
</body>
</html>
"""


def escape(text: Any) -> str:
    """Text for use between tags or in an attribute."""
    return html.escape(str(text))
