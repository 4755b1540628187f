"""What documents and docstrings point to is there, and the index of decisions has all of them."""

import re
from pathlib import Path

import pytest

from stack.process import ROOT

DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sdk/*.md"), *ROOT.glob("bench/*.md")]
CODE = [
    path
    for package in ("bench", "events", "examples", "projections", "schemas", "sdk/src", "service", "stack", "workers")
    for ending in ("py", "sql")
    for path in (ROOT / package).rglob(f"*.{ending}")
]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")
POINTER = re.compile(r"\bdocs/(decisions/\d{4}|[a-z/-]+\.md)")


def anchors(document: Path) -> set[str]:
    """Return the names of a document's headings, as links call them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text()):
        there = (document.parent / target).resolve() if target else document
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_document_that_the_code_names_is_there() -> None:
    named = {(path, name) for path in CODE for name in POINTER.findall(path.read_text())}
    assert named
    assert [one for one in named if not list((ROOT / "docs").glob(f"{one[1]}*"))] == []


def test_the_index_has_every_decision_by_its_title() -> None:
    index = (DECISIONS / "README.md").read_text()
    for path in sorted(DECISIONS.glob("0*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        assert title.startswith(f"{int(path.name[:4])}. "), path.name
        assert f"- [{title}]({path.name})\n" in index, path.name
