# SPDX-License-Identifier: Apache-2.0
"""The click model behind ``python -m mlayers train`` and ``python -m mlayers predict``.

Read in this order: `run` is the job, `table` reads a file, `encoder` turns its columns into arrays,
`click_log` generates data where there is no file, `model` builds the two models, `plots` draws.
Only `errors`, `options` and `cli` may be imported before a Keras backend is chosen.
"""
