# SPDX-License-Identifier: Apache-2.0
"""How a framework's tensor reaches an op inside the framework's own graph. See README.md here."""
