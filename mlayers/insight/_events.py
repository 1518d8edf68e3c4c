# SPDX-License-Identifier: Apache-2.0
"""Scalars in the files that TensorBoard reads, with no framework.

tensorboard's own EventFileWriter would import TensorFlow wherever it is installed, and keeps a
thread and a file open. Here the file is open for as long as an epoch's numbers are written.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlayers.insight._optional import load

_numbers = itertools.count()


class EventFile:
    """A file of events.

    Args:
        log_dir: the folder it is made in.
        caller: who writes it, for the error.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str], caller: str) -> None:
        self._event = load("tensorboard.compat.proto.event_pb2", caller).Event
        self._summary = load("tensorboard.compat.proto.summary_pb2", caller).Summary
        self._record_writer = load("tensorboard.summary.writer.record_writer", caller).RecordWriter
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.path = folder / f"events.out.tfevents.{name}.feature_insight"
        self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step, by their tags."""
        values = [self._summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items()]
        summary = self._summary(value=values)
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: Any) -> None:
        with self.path.open("ab") as file:
            self._record_writer(file).write(event.SerializeToString())
