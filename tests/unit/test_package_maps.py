"""The list of modules at the top of each package names all of them, and none that has gone."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^ {4}([a-z_]+/?) +\S", re.MULTILINE)


@pytest.mark.parametrize("package", ["events", "projections", "service", "workers", "workers/gpu"])
def test_a_package_says_where_everything_is(package: str) -> None:
    folder = ROOT / package
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    folders = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    text = importlib.import_module(package.replace("/", ".")).__doc__ or ""
    named = ENTRY.findall(text)
    assert len(named) == len(set(named)), "named twice"
    assert (modules | folders) - set(named) == set(), f"name these in {package}/__init__.py"
    known = {name for name in named if (folder / f"{name}.py").exists() or (folder / name).is_dir()}
    assert set(named) == known
