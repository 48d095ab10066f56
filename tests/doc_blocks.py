"""The fenced code blocks of the documentation."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

MASTER = "http://127.0.0.1:8000"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>file|not run): (?P<note>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block; ``file`` is the name that the page gives it, ``not_run`` why it is not executed."""

    page: Path
    line: int
    language: str
    text: str
    file: str | None
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    blocks = []
    for found in _BLOCK.finditer(text):
        note = found["note"]
        blocks.append(
            Block(
                page,
                text[: found.start()].count("\n") + 1,
                found["language"],
                found["text"],
                note if found["kind"] == "file" else None,
                note if found["kind"] == "not run" else None,
            )
        )
    assert text.count("\n```") == 2 * len(blocks), f"{page.name}: a block is not closed, or not recognised"
    return blocks


def write_files(page: Path, folder: Path) -> list[Path]:
    """Write the blocks of a page that are files, as their reader would."""
    written = []
    for block in blocks_of(page):
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            written.append(path)
    return written


def commands_of(block: Block) -> list[str]:
    """The commands of a bash block, one a line, without comments; continued lines are joined."""
    text = block.text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [command.strip() for line in lines if line for command in line.split("&&")]


@dataclass(frozen=True)
class Request:
    """What a ``curl`` command asks for; ``form`` has ``@name`` for a file."""

    method: str
    path: str
    form: list[tuple[str, str]]
    headers: dict[str, str]


def request_of(command: str) -> Request:
    """Read a ``curl`` command that asks the master; an option that is not known fails."""
    program, *words = shlex.split(command)
    assert program == "curl", command
    options = iter(words)
    method, path = "", ""
    form: list[tuple[str, str]] = []
    headers: dict[str, str] = {}
    for word in options:
        match word:
            case "-F":
                name, _, value = next(options).partition("=")
                form.append((name, value))
            case "-H":
                name, _, value = next(options).partition(": ")
                headers[name] = value
            case "-X":
                method = next(options)
            case "-N" | "-O":
                """How the answer is shown, or kept."""
            case _:
                assert word.startswith(MASTER), f"{command}: {word}"
                path = word.removeprefix(MASTER)
    return Request(method or ("POST" if form else "GET"), path, form, headers)


def anchors_of(page: Path) -> set[str]:
    """What can follow ``#`` in a link to the page, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
