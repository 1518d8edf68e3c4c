# SPDX-License-Identifier: Apache-2.0
"""Run as a program: serves an exported model where neither mlayers nor Keras can be imported.

python serve_alone.py FOLDER    prints the largest error of its predictions, by batch size
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np

BLOCKED = ("mlayers", "keras", "jax")  # what is written with JAX is served by TensorFlow alone


def serve_saved_model(path):
    import tensorflow as tf

    model = tf.saved_model.load(path)
    return lambda arrays: model.serve([tf.constant(a) for a in arrays]).numpy()


def serve_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def serve_torch(path):
    import torch

    module = torch.export.load(path).module()
    return lambda arrays: module([torch.from_numpy(a) for a in arrays]).detach().numpy()


SERVERS = {"model": serve_saved_model, "model.onnx": serve_onnx, "model.pt2": serve_torch}


def main(folder):
    for name in BLOCKED:
        sys.modules[name] = None  # which Python refuses to import, and TensorFlow may look for
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise AssertionError(f"{name} can be imported")
    (name,) = (name for name in SERVERS if (folder / name).exists())
    serve = SERVERS[name](str(folder / name))
    errors = {}
    for path in folder.glob("*.npz"):
        with np.load(path) as saved:
            arrays = [saved[f"arr_{i}"] for i in range(len(saved.files) - 1)]
            expected = saved["expected"]
        found = serve(arrays)
        assert found.shape == expected.shape, (found.shape, expected.shape)
        errors[path.stem] = float(np.abs(found - expected).max() / np.abs(expected).max())
    print(json.dumps(errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
