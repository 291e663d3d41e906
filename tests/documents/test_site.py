"""The site of docs/ builds without a warning, loads nothing from elsewhere, and links lead somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown.extensions.toc import slugify
from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.main import create_app
from app.settings import EmbeddedSettings
from tests.documents.blocks import PAGES, ROOT, name_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Warnings, such as of links that lead nowhere, fail it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser loads to show a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that may load something."""
        if tag in ("script", "link", "img", "iframe", "source"):
            self.addresses += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_site_needs_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = Loaded(page.read_text()).addresses
        assert loaded, page
        assert not [address for address in loaded if urlsplit(address).netloc], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def test_the_reference_has_every_operation_and_schema(site: Path, tmp_path: Path) -> None:
    document = create_app(EmbeddedSettings(data_dir=tmp_path)).openapi()
    page = (site / "api.html").read_text()
    operations = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert operations <= set(re.findall(r"<code>([A-Z]+ /[^<]*)</code>", page))
    assert {f'id="{name}"' for name in document["components"]["schemas"]} <= set(re.findall(r'id="\w+"', page))


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [after for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {slugify("".join(part.content for part in title.children or []), "-") for title in titles}


def links(page: Path) -> list[str]:
    """Where a page's links lead."""

    def of(tokens: list[Token]) -> list[str]:
        return [
            address
            for token in tokens
            for address in [
                *of(token.children or []),
                *([str(token.attrs["href"])] if "href" in token.attrs else []),
            ]
        ]

    return of(MarkdownIt().enable("table").parse(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """In the repository, too; addresses in the Internet are only read."""
    for link in links(page):
        address = urlsplit(link)
        if address.scheme:
            assert address.scheme == "https", link
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", address.netloc), link
            continue
        target = (page.parent / address.path).resolve() if address.path else page
        assert target.exists(), link
        assert not address.fragment or address.fragment in headings(target), link
