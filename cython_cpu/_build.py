# SPDX-License-Identifier: Apache-2.0
"""How the compiled parts are built: every kernel, and the C half of every bridge.

Named in pyproject.toml as the build_ext command; runs only while a wheel or an editable install is
built. Adding an op means adding a .pyx here, nothing else. No framework is needed: the bridges find
their framework's functions at run time.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension
from setuptools.command.build_ext import build_ext

HERE = "cython_cpu"  # setuptools runs in the project's root and wants relative paths
BRIDGES = "mlayers/bridges"

# Nothing that changes a result: sums keep their order, NaN and infinity their meaning.
COMPILE_FLAGS = ["-O3", "-pthread", "-fno-trapping-math"]
CPP_FLAGS = ["-std=c++17", "-Wno-psabi", "-fvisibility=hidden"]  # vectors never leave a function
if platform.machine() in ("aarch64", "arm64"):
    # All vectors are written out. GCC and clang would make one more, of the sum of a block of one
    # row, without the fused operation that larger blocks have: a row would depend on others.
    COMPILE_FLAGS.append("-fno-tree-vectorize")
LINK_FLAGS = ["-pthread"]

# The instruction sets that every kernel is compiled for besides the baseline (SSE2, NEON), the
# best last. Which one runs is chosen at run time (__init__.py, isa.h).
AVX2_FLAGS = ["-mavx2", "-mfma", "-mf16c"]
ISA_FLAGS = {
    "avx2": AVX2_FLAGS,
    "avx512": [
        *AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
        "-mprefer-vector-width=512",
    ],
}  # fmt: skip

CYTHON_DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}


def _cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _extensions() -> list[Extension]:
    isas = ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else {}
    kernels = []
    for path in sorted(Path(HERE).glob("*.pyx")):
        name = f"mlayers.{HERE}.{path.stem}"
        kernels.append(Extension(name, [path.as_posix()]))
        if path.stem not in ("_call", "_probe"):  # which compute nothing to speak of
            kernels += [Extension(f"{name}_{isa}", [path.as_posix()]) for isa in isas]
    bridges = [
        Extension(f"mlayers.bridges.{name}", [source]) for name, source in _bridges().items()
    ]
    return kernels + bridges


def _bridges() -> dict[str, str]:
    """The C half of each bridge: the name of its library, and its source."""
    sources = sorted([*Path(BRIDGES).glob("*.c"), *Path(BRIDGES).glob("*.cpp")])
    return {f"libmlayers_{path.stem}": path.as_posix() for path in sources}


def _is_cpp(source: Path) -> bool:
    """Whether C++ is compiled: a .cpp, or a .pyx that tells Cython so."""
    return source.suffix == ".cpp" or "distutils: language = c++" in source.read_text("utf-8")


class BuildKernels(build_ext):
    """build_ext over all kernels and bridges."""

    def finalize_options(self) -> None:
        """Replace the extensions of pyproject.toml by what the folders hold; use all cores."""
        self.distribution.ext_modules = _extensions()
        for extension in self.distribution.ext_modules:
            extension.include_dirs = [HERE]
            headers = [*Path(HERE).glob("*.[hp]*"), *Path(BRIDGES).glob("*.h")]
            extension.depends = [path.as_posix() for path in headers]
            isa = extension.name.rpartition("_")[2]
            cpp = _is_cpp(Path(extension.sources[0]))
            extension.extra_compile_args = [
                *COMPILE_FLAGS, *(CPP_FLAGS if cpp else []), *ISA_FLAGS.get(isa, [])
            ]  # fmt: skip
            extension.extra_link_args = LINK_FLAGS
        super().finalize_options()
        if self.parallel is None:
            self.parallel = _cores()

    def build_extensions(self) -> None:
        """Translate one after another, as Cython is not made for threads; compile side by side."""
        for extension in self.extensions:
            if extension.sources[0].endswith(".pyx"):
                # In a folder of its own: one .pyx is translated once for each instruction set.
                folder = Path(self.build_temp, extension.name.rpartition(".")[2])
                (translated,) = cythonize(
                    Extension(extension.name, extension.sources, depends=extension.depends),
                    include_path=[HERE],
                    build_dir=str(folder),
                    compiler_directives=CYTHON_DIRECTIVES,
                    force=self.force,
                )
                extension.sources, extension.language = translated.sources, translated.language
        super().build_extensions()

    def get_ext_filename(self, fullname: str) -> str:
        """jax.c becomes libmlayers_jax.so.1: a plain library, which nothing takes for a module."""
        if fullname.rpartition(".")[2] in _bridges():
            return fullname.replace(".", "/") + ".so.1"
        return str(super().get_ext_filename(fullname))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None by name: the libraries say themselves what is visible."""
        return []
