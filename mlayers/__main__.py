# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers COMMAND``: train, predict, bench, config. Imports no framework by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mlayers
from mlayers import bench
from mlayers.train import cli
from mlayers.train.errors import CommandError


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; a command's `run` default returns the exit code."""
    parser = cli.Parser(prog="mlayers", description="Recommender layers for Keras 3.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    cli.add_train(commands)
    cli.add_predict(commands)
    bench.add_parser(commands)
    config = commands.add_parser(
        "config", help="print versions, kernels and bridges, and why something is off"
    )
    config.set_defaults(run=_show_config)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; what the user can mend is told in one sentence, with exit code 2."""
    try:
        arguments = build_parser().parse_args(argv)
        code: int = arguments.run(arguments)
    except CommandError as error:
        print(f"mlayers: {error}", file=sys.stderr)
        return 2
    return code


def _show_config(arguments: argparse.Namespace) -> int:
    mlayers.show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main())
