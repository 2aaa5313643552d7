"""A run's curves, pictures and histograms for TensorBoard, written without TensorFlow, which JAX would have to load."""

import os
import socket
import time

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter


class EventLog:
    """One events file in `folder`, from batch `step` on; what earlier files say of later batches is void then."""

    def __init__(self, folder, step=0):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))
        self._records.flush()

    def scalars(self, step, values):
        """Write numbers by name."""
        for name, value in values.items():
            self._write(step=step, summary=scalar_pb(name, float(value)))
        self._records.flush()

    def histogram(self, step, name, values):
        """Write how an array of numbers is spread."""
        self._write(step=step, summary=histogram_pb(name, values))

    def picture(self, step, name, png, shape):
        """Write a picture: the bytes of a PNG, and its (height, width, ...)."""
        image = Summary.Image(height=shape[0], width=shape[1], colorspace=3, encoded_image_string=png)
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def _write(self, **fields):
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
