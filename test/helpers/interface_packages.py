"""Message packages that have no wheel: those that are installed, or those of test/interfaces, built once."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.paths import PROJECT

SOURCES = PROJECT / "test" / "interfaces"
PACKAGES = ("vision_msgs", "tf2_msgs", "realsense2_camera_msgs")
BUILD_S = 600.0
"""Time limit of a test that may have to build them or to wait until another one has."""


class CannotBuildError(Exception):
    """This machine lacks something that the build needs."""


@dataclass(frozen=True)
class InterfacePackages:
    """An installation of `PACKAGES`.

    Args:
        prefix: folder with lib and share.
    """

    prefix: Path

    @property
    def modules(self) -> Path:
        """The folder that belongs to PYTHONPATH."""
        return self.prefix / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process, and processes that it starts, find them until the patch is undone."""
        for library in (self.prefix / "lib").glob("*.so"):
            ctypes.CDLL(str(library))  # the linker no longer reads LD_LIBRARY_PATH
        monkeypatch.syspath_prepend(self.modules)
        additions = {
            "PYTHONPATH": self.modules,
            "LD_LIBRARY_PATH": self.prefix / "lib",
            "AMENT_PREFIX_PATH": self.prefix,
        }
        for variable, folder in additions.items():
            monkeypatch.setenv(variable, str(folder), prepend=os.pathsep)


def built_packages() -> InterfacePackages:
    """Return the packages of test/interfaces for this Python and its wheels, built if they are not there yet.

    Raises:
        CannotBuildError: something that the build needs is not installed.
    """
    place = Path(sys.prefix) / "interfaces"
    prefix = place / _fingerprint()
    with _lock(place):
        if not prefix.exists():
            _check_tools()
            for package in PACKAGES:
                _build(package, place / "build", place / "new")
            (place / "new").rename(prefix)
    return InterfacePackages(prefix)


def are_installed() -> bool:
    """Return whether the real packages are there, as beside an apt ROS."""
    return all(importlib.util.find_spec(package) for package in PACKAGES)


def forget() -> None:
    """Forget the imported modules of `PACKAGES`, so that an import looks for them anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]


def _fingerprint() -> str:
    wheels = (found for found in importlib.metadata.distributions() if found.name.startswith("ros-"))
    content = hashlib.sha256(" ".join(sorted(f"{wheel.name}={wheel.version}" for wheel in wheels)).encode())
    for file in sorted(file for file in SOURCES.rglob("*") if file.is_file()):
        content.update(f"{file.relative_to(SOURCES)}\n".encode() + file.read_bytes())
    return content.hexdigest()[:16]


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Let one process build; what an interrupted or older build left is removed first."""
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for rest in ("build", "new"):
            shutil.rmtree(place / rest, ignore_errors=True)
        yield


def _check_tools() -> None:
    compilers = [os.environ.get(variable, name) for variable, name in (("CC", "cc"), ("CXX", "c++"))]
    missing = [tool for tool in ("cmake", "make", *compilers) if shutil.which(tool, path=_path()) is None]
    if missing:
        raise CannotBuildError(f"these are not installed: {', '.join(missing)}")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise CannotBuildError(f"{sysconfig.get_path('include')} has no Python.h")
    if not (Path(sys.prefix) / "share" / "rosidl_default_generators").is_dir():
        raise CannotBuildError("the wheels of the extra interfaces are not installed")


def _path() -> str:
    """The tools of the virtual environment, then those of the system."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _build(package: str, build: Path, prefix: Path) -> None:
    configure = [
        "cmake",
        *("-S", str(SOURCES / package)),
        *("-B", str(build / package)),
        *("-G", "Unix Makefiles"),
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        "-DCMAKE_INSTALL_RPATH=$ORIGIN;$ORIGIN/../../..",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DBUILD_TESTING=OFF",
    ]
    build_and_install = ["cmake", "--build", str(build / package), "--target", "install", "--parallel", "2"]
    wheels = sys.prefix
    environment = {
        **os.environ,
        "PATH": _path(),
        "AMENT_PREFIX_PATH": wheels,
        "CMAKE_PREFIX_PATH": wheels,
    }
    for command in (configure, build_and_install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
