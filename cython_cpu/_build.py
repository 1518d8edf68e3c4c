# SPDX-License-Identifier: Apache-2.0
"""How the CPU kernels are compiled: every `*.pyx` in this folder, with OpenMP where it works.

Named in pyproject.toml as the build_ext command; runs only while a wheel or an editable install is
built. Adding an op means adding a .pyx here, nothing else.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

HERE = "cython_cpu"  # setuptools runs in the project's root and wants relative paths

OPENMP_FLAGS = {
    "unix": [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])],
    "msvc": [(["/openmp"], [])],
}
OPTIMISE_FLAGS = {"unix": ["-O3"], "msvc": ["/O2"]}
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


class BuildKernels(build_ext):
    """build_ext over all kernels, after asking the compiler whether OpenMP is there."""

    def finalize_options(self) -> None:
        """Replace the extensions of pyproject.toml by one for every .pyx; set Cython's options."""
        self.distribution.ext_modules = [
            Extension(f"mlayers.{HERE}.{path.stem}", [path.as_posix()], include_dirs=[HERE])
            for path in sorted(Path(HERE).glob("*.pyx"))
        ]
        super().finalize_options()
        self.cython_c_in_temp = True
        self.cython_directives = {
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        }

    def build_extensions(self) -> None:
        """Add the flags this compiler takes, then build."""
        kind = self.compiler.compiler_type
        compile_flags, link_flags = self._openmp_flags(OPENMP_FLAGS.get(kind, []))
        for extension in self.extensions:
            extension.extra_compile_args = OPTIMISE_FLAGS.get(kind, []) + compile_flags
            extension.extra_link_args = link_flags
        super().build_extensions()

    def _openmp_flags(
        self, candidates: list[tuple[list[str], list[str]]]
    ) -> tuple[list[str], list[str]]:
        """The first pair of flags with which an OpenMP program compiles and links, or none."""
        if os.environ.get("MLAYERS_OPENMP", "1") == "0":
            print("mlayers: MLAYERS_OPENMP=0, the kernels are built single-threaded")
            return [], []
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(PROBE)
            for compile_flags, link_flags in candidates:
                try:
                    objects = self.compiler.compile(
                        [str(source)], output_dir=folder, extra_postargs=compile_flags
                    )
                    self.compiler.link_executable(
                        objects, "probe", output_dir=folder, extra_postargs=link_flags
                    )
                except (CompileError, LinkError):
                    continue
                print(f"mlayers: OpenMP found, kernels are built with {' '.join(compile_flags)}")
                return compile_flags, link_flags
        print("mlayers: no OpenMP found, the kernels are built single-threaded")
        return [], []
