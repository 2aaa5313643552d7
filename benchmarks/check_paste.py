"""Does the paste show? Videos are lip-synced to their own sound, and compared with themselves before encoding.

    python benchmarks/check_paste.py --checkpoint_path weights/lipgan.weights.h5 a.mp4 b.mp4

outside: pixels that changed where the mask is 0 (must be 0). edge, upper, jaw: mean gradient of brightness normal to
the mask's edge, result / original, along all of it, its upper line, and the rest (must be within 10 % of 1).
"""

import argparse
import itertools
import pathlib
import resource
import sys

ROOT = pathlib.Path(__file__).parents[1]
BATCH_SIZE = 8


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="videos of faces with their own sound")
    add("--checkpoint_path", required=True, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=2.0, help="seconds of each video (default: %(default)s)")
    add("--no_landmarks", action="store_true", help="paste along a usual jaw instead of the face's own")
    add("--backend", choices=("openvino", "tensorflow", "jax"), default="openvino", help="default: %(default)s")
    return parser.parse_args(argv)


def made(path, generator, detector, max_s, with_landmarks):
    """Yield (source, result, mask (H, W), seconds of CPU time for the paste) of each frame that has a face."""
    import cv2
    import numpy as np

    import faces
    from audio import mel_window
    from lipsync import prepare
    from paste import frame_mask, paste_back
    from video import read_frames

    cv2.setNumThreads(1)
    clip = prepare(path, path, detector=detector, max_s=max_s)
    size = generator.input_shape[0][1]
    frames = enumerate(itertools.islice(read_frames(path), min(clip.num_frames, len(clip.found))))
    while group := [(n, frame) for n, frame in itertools.islice(frames, BATCH_SIZE) if clip.found[n]]:
        crops = np.stack([faces.crop(frame, clip.boxes[n], size) for n, frame in group])
        mels = np.stack([mel_window(clip.mel, n, clip.fps) for n, _ in group])[..., None]
        pictures = np.asarray(generator.predict_on_batch([faces.generator_input(crops, crops), mels]))
        pictures = np.clip(pictures * 255 + 0.5, 0, 255).astype("uint8")
        for (n, frame), picture in zip(group, pictures, strict=True):
            landmarks = clip.points[n] if with_landmarks else None
            start = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
            result = paste_back(frame, picture, clip.boxes[n], landmarks)
            spent = resource.getrusage(resource.RUSAGE_THREAD).ru_utime - start
            yield frame, result, frame_mask(frame.shape, clip.boxes[n], size, landmarks), spent


def edge_gradients(picture, mask):
    """Mean absolute gradient of brightness normal to the mask's edge: along all of it, its upper line, the rest."""
    import cv2
    import numpy as np

    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    (across, down), (mask_across, mask_down) = (
        [cv2.Sobel(image, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))]
        for image in (grey, mask)
    )
    steepness = np.hypot(mask_across, mask_down)  # the weight, too: where the mask changes, an edge would show
    normal = np.abs(across * mask_across + down * mask_down)  # times the steepness
    upper = (mask_down > 0) & (np.abs(mask_across) < mask_down)
    return [normal[where].sum() / max(steepness[where].sum(), 1e-9) for where in (steepness > 0, upper, ~upper)]


def main(argv=None):
    """Print a line for each video."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    import numpy as np

    import options
    from errors import UserError
    from faces import FaceDetector

    try:
        options.set_backend(args.backend, "openvino")
        from checkpoint import load_generator

        generator, _ = load_generator(args.checkpoint_path)
        detector, failed = FaceDetector(args.detector), False
        print(f"{'video':<32} frames  outside    edge   upper     jaw  paste, ms of CPU")
        for path in args.videos:
            outside, gradients, times = 0, [], []
            for source, result, mask, spent in made(path, generator, detector, args.max_s, not args.no_landmarks):
                outside += int((source != result).any(axis=-1)[mask == 0].sum())
                gradients.append([edge_gradients(picture, mask) for picture in (result, source)])
                times.append(1000 * spent)
            result, original = np.array(gradients).mean(axis=0)
            ratios = result / original
            failed |= outside > 0 or not 0.9 <= ratios[0] <= 1.1
            numbers = " ".join(f"{ratio:7.3f}" for ratio in ratios)
            name = "/".join(path.parts[-2:])
            print(f"{name:<32} {len(times):6d} {outside:8d} {numbers}  {np.mean(times):.1f}", flush=True)
    except UserError as e:
        print(f"check_paste.py: {e}", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
