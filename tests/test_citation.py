"""CITATION.cff: what it says of the project is so, and its form is valid."""

import tomllib
from pathlib import Path

import pytest
import yaml

from egg import __version__

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_it_says_what_the_project_says():
    content, project = yaml.safe_load(TEXT), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (content["version"], content["license"]) == (__version__, project["license"])
    assert content["title"].lower() == f"egg: {project['description']}".lower()
    (paper,) = content["references"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"*{paper['title']}* (arXiv 2511.16652)" in readme and paper["url"].endswith("/2511.16652")


def test_it_is_valid():
    citation = pytest.importorskip("cffconvert", reason="cffconvert is not installed").Citation
    citation(TEXT).validate()
