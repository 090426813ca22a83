"""Hold the documentation to the code: the API pages, links, and what the site has."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
import yaml

from tests.test_exported_members import PUBLIC as ROOMS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
API_PAGES = sorted((DOCS / "api").glob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

# The modules whose names users may rely on. `__all__` of the others serves sarguard
# itself; a package that has one stands in exactly one of the two.
PUBLIC = (*ROOMS, "sarguard.errors", "langchain_sarguard")
INTERNAL = (
    "sarguard.decoding",
    "sarguard.evaluation.report",
)


def exported(module: ModuleType) -> list[str]:
    """Return `__all__`, or without one the public classes that a module defines."""
    listed: list[str] | None = getattr(module, "__all__", None)
    if listed is not None:
        return listed
    return [
        name
        for name, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__ and not name.startswith("_")
    ]


def resolve(path: str) -> object:
    """Import what a dotted path names: a module, or a name in one.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        parent, _, name = path.rpartition(".")
        if not parent:
            raise
        return getattr(resolve(parent), name)


def key_of(name: str, found: object) -> tuple[str, int]:
    """Identify an object, so that a name exported in two places counts once."""
    return name, id(found)


def public_names() -> dict[tuple[str, int], str]:
    """Return every public object with the dotted path it is exported by."""
    found: dict[tuple[str, int], str] = {}
    for path in PUBLIC:
        module = importlib.import_module(path)
        for name in exported(module):
            found.setdefault(key_of(name, getattr(module, name)), f"{path}.{name}")
    return found


def documented_names(page: str) -> Iterator[tuple[str, int]]:
    """Yield what the `:::` directives of a page document."""
    for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE):
        found = resolve(path)
        if isinstance(found, ModuleType):
            yield from (key_of(n, getattr(found, n)) for n in exported(found))
        else:
            yield key_of(path.rpartition(".")[2], found)


@pytest.fixture(scope="module")
def documented() -> Counter[tuple[str, int]]:
    texts = [page.read_text("utf-8") for page in API_PAGES]
    return Counter(name for text in texts for name in documented_names(text))


def test_every_public_name_is_in_the_reference(
    documented: Counter[tuple[str, int]],
) -> None:
    missing = [p for key, p in public_names().items() if key not in documented]
    assert not missing, f"add `::: NAME` to a page of docs/api for each of {missing}"


def test_no_name_is_in_the_reference_twice(
    documented: Counter[tuple[str, int]],
) -> None:
    assert not [name for (name, _), count in documented.items() if count > 1]


def test_the_reference_has_public_names_only(
    documented: Counter[tuple[str, int]],
) -> None:
    public = public_names()
    assert not [name for name, number in documented if (name, number) not in public]


def test_every_list_of_names_is_public_or_internal() -> None:
    sources = sorted((ROOT / "sarguard").rglob("__init__.py"))
    listing = {
        ".".join(source.relative_to(ROOT).parent.parts)
        for source in sources
        if re.search(r"^[^#\n]*\b__all__ = ", source.read_text("utf-8"), re.MULTILINE)
    }
    assert not set(PUBLIC) & set(INTERNAL)
    assert sorted(listing - {*PUBLIC, *INTERNAL}) == [], "add it to one of the two"
    assert sorted(set(INTERNAL) - listing) == []


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: str) -> set[str]:
    """Return the anchors that a page's headings get, here as on GitHub."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def links(page: str) -> Iterator[str]:
    """Yield the targets of a page's links and pictures, those in code left out."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)


def broken_links(page: Path) -> Iterator[str]:
    for link in links(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / unquote(path) if path else page
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text("utf-8"))
        ):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])(?:sarguard|integrations|examples|tests|docs)/[\w./-]*\w",
        page.read_text("utf-8"),
    )
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_and_names_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(?<![\w/.])sarguard(?:\.\w+)+", page.read_text("utf-8"))
    for path in set(named):
        resolve(path)


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            yield from (page for value in entry.values() for page in pages(value))
        elif isinstance(entry, list):
            yield from (page for value in entry for page in pages(value))

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    found = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(pages(site["nav"])) == found


class TestTheChecksThemselves:
    """Show that the checks see what they must refuse."""

    def test_directives_are_read(self) -> None:
        page = "# A\n\n::: sarguard.Reply\n    options: {}\n\n::: sarguard.errors\n"
        names = [name for name, _ in documented_names(page)]
        assert names[0] == "Reply"
        assert {"SarguardError", "AudioError"} <= set(names)

    def test_a_broken_link_is_seen(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text(
            "# A `b` title\n[a](#a-b-title) [b](#no) [c](gone.md) [d](page.md#no)\n"
            "`[e](code)` [f](https://example.org)\n```\n# code\n[g](code)\n```\n"
        )
        assert list(broken_links(page)) == ["#no", "gone.md", "page.md#no"]
