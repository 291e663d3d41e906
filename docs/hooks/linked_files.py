"""A hook of mkdocs: what pages link to elsewhere in the repository, as `../PATH`, is on the site at PATH.

So a link works in the repository and on the site alike. A link to what is not there is left for mkdocs to refuse.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
_OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages link to."""
    linked = {path for page in files.documentation_pages() for path in _OUTSIDE.findall(page.content_string)}
    for path in sorted(linked):
        if (ROOT / path).is_file():
            files.append(
                File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV)
            )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to them where they are on the site."""
    return _OUTSIDE.sub(r"\1", markdown)
