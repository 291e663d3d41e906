"""The code blocks of the READMEs and of docs/."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "client" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What continues a command on the next line: a backslash, or a text that goes on to a line with this word alone.
_HEREDOC = re.compile(r"<<\s*(\w+)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    def commands(self) -> list[str]:
        """What is typed at the prompts of a console."""
        return [command for command, _ in self._typed()]

    def output(self) -> list[str]:
        """The lines that a console shows besides."""
        return [line for _, lines in self._typed() for line in lines]

    def _typed(self) -> Iterator[tuple[str, list[str]]]:
        lines = self.text.splitlines()
        assert lines[0].startswith("$ "), f"{self.place}: a console begins with a prompt"
        while lines:
            command = lines.pop(0).removeprefix("$ ")
            if heredoc := _HEREDOC.search(command):
                while lines[0] != heredoc[1]:
                    command += "\n" + lines.pop(0)
                command += "\n" + lines.pop(0)
            while command.endswith("\\"):
                command += "\n" + lines.pop(0)
            shown = []
            while lines and not lines[0].startswith("$ "):
                shown.append(lines.pop(0))
            yield command, shown


def name_of(page: Path) -> str:
    """Its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(page, token.map[0] + 1 if token.map else 0, token.info.strip(), token.content)
        for token in MarkdownIt().parse(page.read_text())
        if token.type in ("fence", "code_block")
    ]
