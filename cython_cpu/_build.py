# SPDX-License-Identifier: Apache-2.0
"""How the compiled parts are built: every kernel, and the C half of every bridge.

Named in pyproject.toml as the build_ext command; runs only while a wheel or an editable install is
built. Adding an op means adding a .pyx here, nothing else. No framework is needed: the bridges find
their framework's functions at run time.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

HERE = "cython_cpu"  # setuptools runs in the project's root and wants relative paths
BRIDGES = "mlayers/bridges"

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
COMPILE_FLAGS = ["-O3", "-pthread", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
LINK_FLAGS = ["-pthread"]


def _extensions() -> list[Extension]:
    kernels = [
        Extension(f"mlayers.{HERE}.{path.stem}", [path.as_posix()])
        for path in sorted(Path(HERE).glob("*.pyx"))
    ]
    bridges = [
        Extension(f"mlayers.bridges.{name}", [source]) for name, source in _bridges().items()
    ]
    return kernels + bridges


def _bridges() -> dict[str, str]:
    """The C half of each bridge: the name of its library, and its source."""
    sources = sorted([*Path(BRIDGES).glob("*.c"), *Path(BRIDGES).glob("*.cpp")])
    return {f"libmlayers_{path.stem}": path.as_posix() for path in sources}


class BuildKernels(build_ext):
    """build_ext over all kernels and bridges."""

    def finalize_options(self) -> None:
        """Replace the extensions of pyproject.toml by what the folders hold; Cython's options."""
        self.distribution.ext_modules = _extensions()
        for extension in self.distribution.ext_modules:
            extension.include_dirs = [HERE]
            headers = [*Path(HERE).glob("*.[hp]*"), *Path(BRIDGES).glob("*.h")]
            extension.depends = [path.as_posix() for path in headers]
            cpp = extension.sources[0].endswith(".cpp")
            extension.extra_compile_args = [*COMPILE_FLAGS, *(["-std=c++17"] if cpp else [])]
            extension.extra_link_args = LINK_FLAGS
        super().finalize_options()
        self.cython_c_in_temp = True
        self.cython_directives = {
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        }

    def get_ext_filename(self, fullname: str) -> str:
        """jax.c becomes libmlayers_jax.so.1: a plain library, which nothing takes for a module."""
        if fullname.rpartition(".")[2] in _bridges():
            return fullname.replace(".", "/") + ".so.1"
        return str(super().get_ext_filename(fullname))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None by name: the libraries say themselves what is visible."""
        return []
