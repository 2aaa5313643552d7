"""Stand-ins for `jobs.make_in_worker` that kill their process, or never end, where the face's name asks for it."""

import os
import signal
import time

from lipgan.inference.jobs import Outcome


def make_or_die(job, prefix):
    """Write a result of a few bytes; of "always" never, of "once" at the second try, of "bad" an error."""
    mark = job.face.with_suffix(".tried")
    if job.face.stem == "always" or (job.face.stem == "once" and not mark.exists()):
        mark.touch()
        (job.out.parent / f"{prefix}half.mp4").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    if job.face.stem == "bad":
        return Outcome(False, ("bad face",))
    job.out.write_text("video")
    return Outcome(True, (f"{job.out}: made", "assumed nothing"), "time by phase: none")


def make_for_ever(job, prefix):
    """Write a result of a few bytes; of "endless" only half of one, and go on for longer than any test."""
    if job.face.stem.startswith("endless"):
        (job.out.parent / f"{prefix}{job.face.stem}.mp4").write_text("half")
        time.sleep(600)
    job.out.write_text("video")
    return Outcome(True, (f"{job.out}: made",))
