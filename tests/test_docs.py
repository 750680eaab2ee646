"""The documentation: it builds strictly, reads without any other server, and its code and commands are right."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import taskflow_otel
from taskflow_otel import TaskManager, backends, client, testing
from tests.doc_blocks import PAGES, Module, blocks, commands, modules
from tests.managers import started
from tests.mypy_cache import copied_cache

ROOT = Path(__file__).parents[1]
PROGRAMS = [one for one in modules() if one.is_program and re.search(r"^app = FastAPI\(", one.text, re.MULTILINE)]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SERVERS = re.compile(r"(?:Postgres|MySQL|Redis)Backend\(")
OF_PYTHON = {
    "taskflow-otel": "taskflow_otel",
    **{name: name for name in ("granian", "gunicorn", "hypercorn", "uvicorn")},
}
"""Commands whose options are checked, and their modules."""
BESIDE = {"cd", "celery", "curl", "docker", "export", "kill", "make", "pip", "promtool", "python", "python3"}
"""The other commands that pages may use."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a link to a page, a file or a heading that does not exist is an error."""
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_the_site_is_read_without_any_other_server(site: Path) -> None:
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 30
    loaded = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href|srcset)=\"?(?:https?:)?//[^\">]*")
    assert {path.name: found for path, text in pages.items() if (found := loaded.findall(text))} == {}


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "api" / "index.html").read_text("utf-8")
    headings = {heading.rpartition(".")[2] for heading in re.findall(r'<h\d id="(taskflow_otel\.[\w.]+)"', page)}
    names = {*taskflow_otel.__all__, *backends.__all__, *client.__all__, *testing.__all__}
    assert names - headings == {
        "ScheduledOnce",  # another name of `ScheduledRun`
        "__version__",
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The modules that the blocks of the pages make, as files.

    A name may be declared twice on a page, since blocks show variants, and a reader awaits in a function. The files say
    so themselves: with other options of its own, mypy would check the whole package anew.
    """
    directory = tmp_path_factory.mktemp("pages")
    files = {module.name: directory / f"{module.name}.py" for module in modules()}
    for module in modules():
        allowed = '# mypy: disable-error-code="top-level-await, no-redef, empty-body"'
        files[module.name].write_text(f"{module.text}\n\n{allowed}\n")
    assert len(files) > 30
    return files


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_code_of_every_page_type_checks(written: dict[str, Path], checker: str, tmp_path: Path) -> None:
    if checker == "mypy":
        arguments = ["mypy", *copied_cache(tmp_path)]
        files = list(written.values())
    else:
        arguments = ["pyright", "--pythonpath", sys.executable]
        files = [written[module.name] for module in modules() if module.is_program and not module.awaits]
    checked = subprocess.run(
        [sys.executable, "-m", *arguments, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_block_is_of_a_language_that_is_tried() -> None:
    """Python is checked and run, commands are held against their options, queries are run; text is not code."""
    fenced = re.compile(r"^( *)```(\w*)[^\n]*\n.*?^\1```$", re.MULTILINE | re.DOTALL)
    found = {language for page in PAGES for _, language in fenced.findall(page.read_text("utf-8"))}
    assert found <= {"bash", "dockerfile", "py", "python", "sh", "sql", "text", ""}


async def test_every_query_of_a_page_runs_on_a_database(tmp_path: Path) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db")

    @manager.task(persist=True)
    async def work() -> None: ...

    async with started(manager):
        await manager.enqueue(work, delay=600)
        with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
            found = [connection.execute(block.text).fetchall() for block in blocks("sql")]
    assert found == [[(1,)]]


def test_the_code_of_other_libraries_can_be_read() -> None:
    for block in blocks("py"):
        compile(block.text, f"{block.page}:{block.line}", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_program_of_a_page_runs_and_answers_the_requests_of_its_page(
    program: Module, written: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"TASK_KEYS": "", "OTEL_SDK_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    app = loaded(program, written[program.name]).app
    assert isinstance(app, FastAPI)
    if SERVERS.search(program.text):
        return  # it needs that server
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for words in requests_of(program):
            method, url, headers, body = parsed(words)
            answer = client.request(method, url, headers=headers, content=body)
            assert answer.is_success, (words, answer.text)


def loaded(program: Module, path: Path) -> ModuleType:
    """The module of a program."""
    spec = importlib.util.spec_from_file_location(program.name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requests_of(program: Module) -> Iterator[list[str]]:
    """The curl lines of the tutorial's page of a program; other pages show requests of several programs."""
    for block, words in commands():
        page = re.sub(r"\W", "_", block.page.relative_to(ROOT).with_suffix("").as_posix())
        if words[0] == "curl" and program.name == f"{page}_1" and "tutorial" in page:
            yield words


def parsed(words: list[str]) -> tuple[str, str, dict[str, str], str | None]:
    """Method, address, headers and body of a curl line."""
    method, url, headers, body = "GET", "", {}, None
    rest = iter(words[1:])
    for word in rest:
        match word:
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "-d":
                body = next(rest)
            case _:
                url = word
    return method, url, headers, body


def test_every_command_of_a_page_exists_with_its_options() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    unknown, asked = [], []
    for block, (program, *words) in commands():
        place = f"{block.page.relative_to(ROOT)}:{block.line}: {program} {' '.join(words)}"
        name = Path(program).name
        if name in OF_PYTHON:
            asked.append((name, words, place))
        elif name not in BESIDE or (name == "make" and words and words[0] not in targets):
            unknown.append(place)
        elif name == "pip":
            extras = {
                extra for word in words for several in re.findall(r"\[(.+)\]", word) for extra in several.split(",")
            }
            unknown += [place] if extras - EXTRAS.keys() else []
        elif name in {"python", "python3"} and words[0] == "-m":
            unknown += [place] if importlib.util.find_spec(words[1]) is None else []
    calls = sorted({(name, commanded(name, words)) for name, words, _ in asked})
    with ThreadPoolExecutor(3) as pool:
        helped = dict(zip(calls, pool.map(said_of_options, calls), strict=True))
    for name, words, place in asked:
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        known = helped[name, commanded(name, words)]
        unknown += [place] if any(not re.search(rf"(?<![\w-]){option}\b", known) for option in options) else []
    assert unknown == []


def commanded(name: str, words: list[str]) -> tuple[str, ...]:
    """The words that name a command of a program that has several."""
    if name != "taskflow-otel":
        return ()
    return tuple(words[:2] if words[0] == "dashboards" else words[:1])


def said_of_options(call: tuple[str, tuple[str, ...]]) -> str:
    """What a program says of the options of a command."""
    name, words = call
    return subprocess.run(
        [sys.executable, "-m", OF_PYTHON[name], *words, "--help"],
        cwd=ROOT, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
