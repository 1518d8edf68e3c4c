# SPDX-License-Identifier: Apache-2.0
"""Helpers shared by the tests: gradients on any backend, the parity fixture, `check_layer`."""
