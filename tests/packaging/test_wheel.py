# SPDX-License-Identifier: Apache-2.0
"""The sdist, the wheel built from it, and that wheel at work far from the checkout.

Builds and installs for real, so it needs a C compiler and a package index.
"""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, cwd):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist and the wheel that was built from the sdist.

    tox has built both and says where; otherwise they are built here.
    """
    if "MLAYERS_DIST" in os.environ:
        return Path(os.environ["MLAYERS_DIST"])
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


BRIDGES = ("jax", "jax_cuda", "tensorflow", "torch")


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def environment(folder, *requirements):
    """The Python of a new virtual environment with `requirements` installed."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    for requirement in requirements:
        run(python, "-m", "pip", "install", "-q", *requirement, cwd=folder)
    return python


def test_wheel_holds_mlayers_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"mlayers", next(t for t in tops if t.endswith(".dist-info"))}
    ops = {Path(n).stem for n in names if n.startswith("mlayers/ops/") and "/_" not in n}
    for op in ops:
        assert any(n.startswith(f"mlayers/cython_cpu/{op}.") and n.endswith(".so") for n in names)
        rooms = (f"cython_cpu/{op}.pyx", f"kernels_cu/{op}.cu", f"kernels_cu/{op}.py")
        assert {f"mlayers/{room}" for room in rooms} <= set(names)
    sources = {f"mlayers/{p.relative_to(ROOT / 'mlayers')}" for p in modules(ROOT / "mlayers")}
    assert sources <= set(names), "a subpackage is missing in [tool.setuptools] packages"
    assert {
        "mlayers/py.typed",
        "mlayers/CHANGELOG.md",
        "mlayers/PORTING.md",
        "mlayers/bridges/README.md",
        *(f"mlayers/bridges/libmlayers_{name}.so.1" for name in BRIDGES),
        "mlayers/kernels_cu/__init__.py",
        "mlayers/kernels_cu/prelude.cuh",
    } <= set(names)


def modules(folder):
    return [path for path in folder.rglob("*.py") if "__pycache__" not in path.parts]


def test_sdist_holds_what_a_build_needs(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = {f"cython_cpu/{p.name}" for p in (ROOT / "cython_cpu").glob("*.[hp]*")}
    needed |= {f"mlayers/bridges/{p.name}" for p in (ROOT / "mlayers/bridges").glob("*.[ch]*")}
    needed |= {f"kernels_cu/{p.name}" for p in (ROOT / "kernels_cu").glob("*.cu*")}
    assert needed | {"pyproject.toml", "README.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".so.1", ".o"))]
    assert not [name for name in names if name.startswith("cython_cpu/") and name.endswith(".c")]


def test_wheel_works_with_numpy_alone(wheel, tmp_path):
    python = environment(tmp_path, ["numpy>=2"], ["--no-deps", wheel])
    program = (
        "import importlib.util, sys, numpy as np, mlayers\n"
        "for name in ('keras', 'jax', 'tensorflow', 'torch'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "x = np.arange(6, dtype='float32').reshape(2, 3)\n"
        "print(mlayers.ffm(x, x[:, :1], 1).tolist())\n"
        "print(mlayers.feature_insight(x, x.T.copy(), [1, 2], aggregate=True).shape)\n"
        "print(mlayers.fid_counter(x, 3).max(), mlayers.lhuc_gate(x, 0 * x).sum())\n"
        "assert sys.prefix in mlayers.__file__\n"
    )
    out = run(python, "-c", program, cwd=tmp_path).splitlines()
    assert out == ["[[0.0, 0.0, 0.0], [9.0, 12.0, 15.0]]", "(2, 2)", "3.0 15.0"]


def test_wheel_works_with_jax_and_keras_alone(wheel, tmp_path):
    python = environment(tmp_path, [f"{wheel}[jax]"])
    program = (
        "import os; os.environ['KERAS_BACKEND'] = 'jax'\n"
        "import importlib.util, keras, numpy as np, mlayers\n"
        "for name in ('tensorflow', 'torch'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "inputs = keras.Input((6,))\n"
        "model = keras.Model(inputs, mlayers.layers.LHUCTower([8, 1])(inputs))\n"
        "model.compile('adam', 'mse')\n"
        "x = np.random.default_rng(0).normal(size=(64, 6)).astype('float32')\n"
        "losses = model.fit(x, x[:, :1], epochs=3, verbose=0).history['loss']\n"
        "model.save('tower.keras')\n"
        "same = keras.models.load_model('tower.keras').predict(x, verbose=0)\n"
        "print(losses[-1] < losses[0], np.allclose(same, model.predict(x, verbose=0)))\n"
    )
    assert run(python, "-c", program, cwd=tmp_path).split()[-2:] == ["True", "True"]


@pytest.mark.parametrize("options", [[], ["-e"]], ids=["regular", "editable"])
def test_install_from_a_checkout(options, tmp_path):
    """From a copy, so that an editable install leaves nothing behind in the checkout."""
    run("git", "clone", "-q", ROOT, "checkout", cwd=tmp_path)
    python = environment(tmp_path, ["numpy>=2"], ["--no-deps", *options, tmp_path / "checkout"])
    program = (
        "import numpy as np, mlayers, mlayers.kernels_cu\n"
        "print(mlayers.lhuc_gate(np.ones(1), np.zeros(1)).tolist(), mlayers.__file__)\n"
    )
    result, path = run(python, "-c", program, cwd=tmp_path).split()
    assert result == "[1.0]"
    assert path.startswith(str(tmp_path / "checkout")) == (options == ["-e"])
