"""The fenced blocks of the README and the documentation, made into modules that can be checked and run.

A Python block that begins with an import and makes an application or a manager begins a program: it must be complete as
it is. The blocks after it on its page continue it. What comes before any program gets the names of `PRELUDE`. A block
of another library's code has the language `py`.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PRELUDE = """\
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager, task_log
from taskflow_otel.client import Client


class Account:
    is_admin = False


def get_current_user() -> Account:
    return Account()


app = FastAPI()
task_manager = TaskManager(snapshot_db="tasks.db")
client: Client
due: datetime
user_id = 7


@task_manager.task(name="send_email")
async def send_email(address: str) -> None: ...


@task_manager.task(name="remind")
async def remind(user: int) -> None: ...
"""


class Block(NamedTuple):
    """A fenced block and where it is."""

    page: Path
    line: int
    language: str
    text: str


class Module(NamedTuple):
    """A program of a page, or what a page says before one."""

    name: str
    text: str
    is_program: bool

    @property
    def awaits(self) -> bool:
        """Whether it awaits outside of a function, as a reader would in one."""
        code = compile(self.text, self.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        functions = (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda, ast.ClassDef)
        waiting: list[ast.AST] = [code]
        while waiting:
            for child in ast.iter_child_nodes(waiting.pop()):
                if isinstance(child, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
                    return True
                if not isinstance(child, functions):
                    waiting.append(child)
        return False


def blocks(*languages: str, pages: list[Path] | None = None) -> Iterator[Block]:
    """The fenced blocks of these languages on all pages; what is indented, in tabs for example, too."""
    for page in pages or PAGES:
        text = page.read_text("utf-8")
        for found in re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            if found[2] in languages:
                body = re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)
                yield Block(page, text[: found.start()].count("\n") + 1, found[2], body)


def modules() -> Iterator[Module]:
    """The modules that the Python blocks of all pages make."""
    for page in PAGES:
        name = re.sub(r"\W", "_", page.relative_to(ROOT).with_suffix("").as_posix())
        texts = [PRELUDE]
        number = 0
        for block in blocks("python", pages=[page]):
            if _begins(block.text):
                if texts != [PRELUDE]:
                    yield Module(f"{name}_{number}", "\n\n".join(texts), number > 0)
                texts, number = [], number + 1
            texts.append(block.text)
        if texts != [PRELUDE]:
            yield Module(f"{name}_{number}", "\n\n".join(texts), number > 0)


def commands() -> Iterator[tuple[Block, list[str]]]:
    """Each command of each shell block and each Dockerfile, as words; without variables before it."""
    for block in blocks("dockerfile"):
        for kind, text in re.findall(r"^(CMD|RUN) (.+)$", block.text, re.MULTILINE):
            yield block, json.loads(text) if kind == "CMD" else shlex.split(text)
    for block in blocks("bash", "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield block, words


def _begins(text: str) -> bool:
    return bool(
        re.match(r"(?:from|import) |\"\"\"", text)
        and re.search(r"^\w+ = (?:FastAPI|TaskManager)\(|^(?:async )?def test_", text, re.MULTILINE)
    )
