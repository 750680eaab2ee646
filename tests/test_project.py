"""The project's own files agree with each other and with the package."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

import taskflow_otel
from taskflow_otel import backends, testing
from taskflow_otel.version import __version__

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPTIONAL = [
    "opentelemetry.sdk", "redis", "psycopg", "aiomysql", "croniter", "cryptography", "cloudpickle", "argon2", "httpx",
    "click", "rich", "uvicorn",
]  # fmt: skip
OF_ONE_BACKEND = ["sqlalchemy", "aiosqlite", "sqlite3"]
TEMPLATES = ["jinja2"]


def test_the_tests_that_every_python_runs_are_there() -> None:
    source = (ROOT / ".ci/pythons").read_text()
    listed = re.search(r"^tests=\(\n.*?^\)$", source, re.MULTILINE | re.DOTALL)
    assert listed is not None
    script = f'{listed[0]}\nprintf "%s\\n" "${{tests[@]}}"'
    paths = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def anchors(page: Path) -> set[str]:
    """The fragments that a Markdown renderer gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_the_newest_entry_of_the_changelog_is_the_version_of_the_code() -> None:
    newest = re.search(r"^## \[(.+?)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_the_installed_version_is_the_version_of_the_code() -> None:
    assert version("taskflow-otel") == __version__


def test_property_tests_try_the_same_examples_in_each_run_of_ci() -> None:
    assert settings().derandomize == ("CI" in os.environ)
    assert settings().print_blob


def test_the_extra_all_names_every_feature() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    features = extras.keys() - {"all", "dev", "docs"}
    assert extras["all"] == [f"taskflow-otel[{','.join(name for name in extras if name in features)}]"]


def loaded(program: str, *names: str) -> set[str]:
    """Which of these modules a process has loaded after a program."""
    program = f"import sys\n{program}\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_the_library_loads_no_optional_dependency() -> None:
    # Its names are loaded when they are used.
    names = [name for name in taskflow_otel.__all__ if name not in backends.__all__]
    program = f"from taskflow_otel import {', '.join(names)}; from taskflow_otel.testing import *"
    assert loaded(program, *OPTIONAL, *OF_ONE_BACKEND, *TEMPLATES) == set()


@pytest.mark.parametrize("package", [taskflow_otel, backends, testing], ids=lambda package: package.__name__)
def test_a_name_is_what_a_type_checker_holds_it_for(package: ModuleType) -> None:
    """It is found twice: in an import that only a type checker reads, and in a table that loads it when it is used."""
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text("utf-8"))
    imports = [(str(node.module), node.names) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: home for home, names in imports for alias in names if home.startswith("taskflow_otel.")}
    assert set(package.__all__) - homes.keys() <= {"ScheduledOnce"}
    for name, home in homes.items():
        assert getattr(package, name) is getattr(import_module(home), name), name
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        getattr(package, "nothing")  # noqa: B009 - no type checker allows the attribute


def test_the_client_loads_neither_the_engine_nor_fastapi_and_a_child_process_not_the_administration() -> None:
    rooms = ["taskflow_otel.manager", "taskflow_otel.web.api"]
    assert loaded("import taskflow_otel.client", *rooms, "taskflow_otel.engine.engine", "fastapi") == set()
    assert loaded("import taskflow_otel.engine.executors.process_child", *rooms) == set()


def test_a_manager_loads_what_its_backend_needs_and_nothing_of_the_others() -> None:
    assert loaded("from taskflow_otel import TaskManager; TaskManager()", *OPTIONAL, *OF_ONE_BACKEND) == set()
    of_redis = "from taskflow_otel.backends import RedisBackend; RedisBackend('redis://localhost')"
    assert loaded(of_redis, *OF_ONE_BACKEND) == set()
    of_sqlite = "from taskflow_otel import TaskManager; TaskManager(snapshot_db='tasks.db')"
    assert loaded(of_sqlite, *OF_ONE_BACKEND, "redis", "psycopg", "aiomysql") == {"sqlalchemy", "sqlite3"}


def test_a_backend_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'OracleBackend'"):
        getattr(backends, "OracleBackend")  # noqa: B009 - no type checker allows the attribute


def test_the_wheel_holds_the_types_and_the_page_and_nothing_beside_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "taskflow_otel/py.typed" in names
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "taskflow_otel").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    # What the project keeps beside the package and the wheel carries inside it (`dashboards/`, the compose file).
    carried = {name for name in names if name.startswith("taskflow_otel/stack/")}
    assert {name for name in names if ".dist-info/" not in name} - carried == package


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_the_documentation_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, fragment = target.partition("#")
        linked = page.parent / path if path else page
        if "://" in target:
            continue
        if not linked.exists() or (fragment and fragment not in anchors(linked)):
            broken.append(target)
    assert broken == []


def test_modules_stay_small_enough_to_read() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / "taskflow_otel").rglob("*.py")}
    assert {str(path.relative_to(ROOT)): lines for path, lines in sizes.items() if lines > 500} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "taskflow_otel").rglob("*.py")), ids=lambda path: path.stem)
def test_every_match_ends_with_what_remains(path: Path) -> None:
    """`assert_never` where nothing can remain; the type checker holds it against the cases before."""
    matches = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Match)]
    assert [match.lineno for match in matches if ast.unparse(match.cases[-1].pattern) != "_"] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a source distribution is not a checkout")
def test_the_source_distribution_holds_all_that_its_tests_need(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in tracked if name not in packed} == set()
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    # Make names a file that a target needs and nobody has packed.
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for targets in (["test"], ["demo"], ["smoke"], ["floors"]):
        done = subprocess.run(["make", "-n", *targets], cwd=unpacked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
