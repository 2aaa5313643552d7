"""Start-up time: imports and steps of a short command that take over 100 ms before the first frame.

    python benchmarks/startup.py

Imports are timed in a process of their own by `python -X importtime`, each with all that it imports itself; the steps
in this process, one after another, without the threads that let them overlap in the command. Wall time: run it on an
idle machine.
"""

import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
LEAST_S = 0.1
MAX_DEPTH = 3  # imports inside imports that are listed
IMPORTS = "import batch_inference, lipgan; lipgan.lipsync"
LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|(\s*)(\S+)")


def slow_imports(code):
    """Return [(seconds, depth, module)] of the imports of a piece of Python that take over LEAST_S, the outer first."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr.splitlines()
    records = [match.groups() for match in map(LINE.match, lines) if match]
    times = [(int(us) / 1e6, len(indent) // 2, name) for _, us, indent, name in reversed(records)]
    return [entry for entry in times if entry[0] > LEAST_S and entry[1] <= MAX_DEPTH]


def time_steps():
    """Yield (step, wall seconds) of making a result from the example's photo."""
    sys.path.insert(0, str(ROOT))

    def timed(name, work, *args):
        start = time.perf_counter()
        result = work(*args)
        return result, (name, time.perf_counter() - start)

    from lipgan.inference import pipeline, preparation, runner, source
    from lipgan.inference.options import LipsyncOptions
    from lipgan.models.backend import set_backend

    set_backend("openvino", "openvino")
    options = LipsyncOptions(max_sec=1.0).with_defaults(None)
    face, speech = ROOT / "examples" / "astronaut.jpg", ROOT / "examples" / "speech.wav"
    opened, step = timed("source", source.open_source, face, options)
    yield step
    audio, step = timed("audio", preparation.load_audio, speech, options, face)
    yield step
    clip, step = timed("face (detector loaded, face found)", preparation.prepare, opened, audio, options)
    yield step
    network, step = timed("network (its description; weights only where none is compiled yet)", runner.load_runner)
    yield step
    _, step = timed("network compiled, or read from the cache", network.reset, True)
    yield step
    frames = pipeline.generate_frames(clip, network, options)
    _, step = timed("audio features and first frame", next, frames)
    yield step
    frames.close()


def main():
    """Print both lists."""
    print("imports over 100 ms, s (indented: part of the line above)")
    for seconds, depth, name in slow_imports(IMPORTS):
        print(f"  {seconds:6.2f}  {'  ' * depth}{name}")
    print("imports of the network's thread over 100 ms, where none is compiled yet, s")
    for seconds, depth, name in slow_imports(
        "from lipgan.models.backend import *; set_backend('openvino', 'openvino'); import_keras()"
    ):
        print(f"  {seconds:6.2f}  {'  ' * depth}{name}")
    print("steps, s")
    for name, seconds in time_steps():
        print(f"  {seconds:6.2f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
