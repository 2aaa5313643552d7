"""lipsync.py: every frame at its time, whatever the picture, the video and the sound are."""

import errno
import pathlib
import threading
import wave
from fractions import Fraction

import cv2
import numpy as np
import pytest

from audio_hparams import hparams
from lipgan.faces import detector, tracker
from lipgan.inference import pipeline
from lipgan.inference.frame_cache import FrameStore
from lipgan.inference.pipeline import lipsync, lipsync_frames, prepare
from lipgan.media import video
from lipgan.media.audio import load_wav
from lipgan.utils.cli import UserError

RATES = (24, 25, Fraction(30000, 1001), 30, 50, 60)
BOX = (8, 56, 8, 56)


def loudness(faces, mels):
    """A generator whose picture is as bright as the middle of the window is loud."""
    middle = mels[:, :, hparams.mel_window // 2, 0].mean(axis=1)
    level = np.clip((middle + 4) / 5, 0, 1)[:, None, None, None]
    return np.broadcast_to(level, (*detector.shape[:3], 3)).astype(np.float32)


def white(faces, mels):
    """A generator whose picture cannot be mistaken for the source's."""
    return np.ones((*detector.shape[:3], 3), np.float32)


def write_wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def clicks(path, seconds, times):
    samples = np.zeros(round(seconds * 16_000))
    samples[[round(float(t) * 16_000) for t in times]] = 1
    return write_wav(path, samples)


def tone(path, seconds):
    return write_wav(path, 0.3 * np.sin(np.arange(round(seconds * 16_000)) * 0.2))


def still(path, height=64, width=64, level=100):
    cv2.imwrite(str(path), np.full((height, width, 3), level, np.uint8))
    return path


def moving(path, num_frames, fps=25, height=64, width=64):
    """A video whose frame k is 40 + 5 k grey levels bright (of 40 to 200, to and fro)."""
    with video.VideoWriter(path, width, height, fps) as writer:
        for k in range(num_frames):
            writer.write(np.full((height, width, 3), level(k), np.uint8))
    return path


def level(k):
    return 40 + 5 * (32 - abs(k % 64 - 32))


def num_threads():
    """Those of ours: tqdm keeps one of its own."""
    return sum(thread.name != "tqdm_monitor" for thread in threading.enumerate())


def brightness(path):
    """The mean of the part that the generator paints, for each frame."""
    return np.array([frame[40:50, 24:40].mean() for frame in video.read_frames(path)])


@pytest.mark.parametrize("fps", RATES, ids=float)
@pytest.mark.parametrize("kind", ["still", "video"])
def test_the_picture_flashes_where_the_sound_clicks(tmp_path, kind, fps):
    num_frames = 30
    at = [0, 1, num_frames // 2, num_frames - 2, num_frames - 1]
    frames = [at[0], at[2], at[4]] if kind == "still" else [at[1], at[2], at[3]]
    sound = clicks(tmp_path / "clicks.wav", num_frames / fps, [(f + Fraction(1, 2)) / fps for f in frames])
    if kind == "still":
        face = still(tmp_path / "face.png")
    else:
        with video.VideoWriter(tmp_path / "face.mp4", 64, 64, fps) as writer:
            for _ in range(num_frames):
                writer.write(np.full((64, 64, 3), 100, np.uint8))
        face = tmp_path / "face.mp4"
    result = lipsync(face, sound, tmp_path / "out.mp4", loudness, fps=fps, boxes=BOX, img_size=16)
    shown = brightness(result.path)
    assert len(shown) == num_frames
    assert video.probe(result.path).fps == fps
    for frame in frames:
        near = shown[max(0, frame - 3) : frame + 4]
        assert near.argmax() + max(0, frame - 3) == frame  # the click lies in the middle of this frame's time
        assert near.max() > near.min() + 30


@pytest.mark.parametrize("fps", [24, 25, Fraction(30000, 1001), 7, 59.5])
@pytest.mark.parametrize("seconds", [0.001, 0.31, 1.017])
def test_a_result_has_as_many_frames_as_the_sound_lasts(tmp_path, fps, seconds):
    sound = tone(tmp_path / "tone.wav", seconds)
    result = lipsync(still(tmp_path / "a.png"), sound, tmp_path / "out.mp4", loudness, fps=fps, boxes=BOX, img_size=16)
    expected = max(1, round(round(seconds * 16_000) / 16_000 * float(fps)))
    assert result.num_frames == expected == len(list(video.read_frames(result.path)))


def test_only_max_s_seconds_of_the_sound_are_used(tmp_path):
    sound = tone(tmp_path / "tone.wav", 2)
    out = tmp_path / "out.mp4"
    lipsync(still(tmp_path / "a.png"), sound, out, loudness, boxes=BOX, img_size=16, max_s=0.6)
    assert video.probe(out).num_frames == 15
    assert len(load_wav(out)) / 16_000 == pytest.approx(0.6, abs=0.07)  # an AAC frame of 1,024 samples more


def test_a_short_video_goes_on_backwards_and_forwards_without_a_jump(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 7), tone(tmp_path / "tone.wav", 1)
    clip = prepare(face, sound, boxes=BOX)
    clip.found[:] = False
    sources = list(video.read_frames(face))
    shown = [frame for frame, _ in lipsync_frames(clip, loudness, img_size=16, batch_size=4)]
    expected = [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    assert len(shown) == 25
    for frame, index in zip(shown, expected, strict=True):
        assert (frame == sources[index]).all()


@pytest.mark.parametrize(("num_frames", "seconds"), [(1, 0.2), (2, 0.2), (5, 0.24), (5, 0.2), (5, 0.12)])
def test_a_video_of_any_length_fits_the_sound(tmp_path, num_frames, seconds):
    face, sound = moving(tmp_path / "face.mp4", num_frames), tone(tmp_path / "tone.wav", seconds)
    result = lipsync(face, sound, tmp_path / "out.mp4", loudness, boxes=BOX, img_size=16, batch_size=2)
    assert len(list(video.read_frames(result.path))) == round(seconds * 25)


def test_no_more_of_a_video_is_read_than_the_sound_needs(tmp_path, monkeypatch):
    face, sound = moving(tmp_path / "face.mp4", 40), tone(tmp_path / "tone.wav", 0.2)
    read, read_frames = [], video.read_frames

    def counted(*args):
        for frame in read_frames(*args):
            read.append(1)
            yield frame

    monkeypatch.setattr(video, "read_frames", counted)
    list(lipsync_frames(prepare(face, sound, boxes=BOX), loudness, img_size=16))
    assert len(read) == 2 * 5  # once for the face, once for the frames


def test_frames_without_a_face_pass_through_untouched_and_are_counted(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 12), tone(tmp_path / "tone.wav", 12 / 25)
    boxes = np.array([BOX] * 12)
    boxes[3:8] = 0
    clip = prepare(face, sound, boxes=boxes)
    shown = list(lipsync_frames(clip, white, img_size=16, batch_size=2))
    for k, ((frame, has_face), source) in enumerate(zip(shown, video.read_frames(face), strict=True)):
        assert has_face == (not 3 <= k < 8)
        assert (frame == source).all() == (not has_face)
    assert lipsync(face, sound, tmp_path / "o.mp4", loudness, boxes=boxes, img_size=16).num_without_face == 5


def test_only_the_lower_half_of_the_box_changes(tmp_path):
    clip = prepare(still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.04), boxes=BOX)
    frame, _ = next(lipsync_frames(clip, white, img_size=16))
    changed = (frame != 100).any(axis=2)
    assert changed[40:50, 24:40].all()
    changed[32:56, 8:56] = False
    assert not changed.any()


def test_an_odd_size_becomes_even_by_one_pixel_in_the_file_only(tmp_path):
    face, sound = still(tmp_path / "a.png", 65, 67), tone(tmp_path / "tone.wav", 0.2)
    frame, _ = next(lipsync_frames(prepare(face, sound, boxes=BOX), loudness, img_size=16))
    assert frame.shape == (65, 67, 3)
    lipsync(face, sound, tmp_path / "out.mp4", loudness, boxes=BOX, img_size=16)
    info = video.probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == (68, 66)


def test_static_holds_the_first_frame_of_a_video(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 12, fps=30), tone(tmp_path / "tone.wav", 0.5)
    clip = prepare(face, sound, boxes=BOX, static=True)
    assert (clip.fps, clip.num_frames) == (30, 15)
    first = next(video.read_frames(face))
    for frame, _ in lipsync_frames(clip, loudness, img_size=16):
        assert (frame[:30] == first[:30]).all()


def test_a_positive_offset_lets_the_picture_show_later_sound(tmp_path):
    sound = clicks(tmp_path / "click.wav", 1, [12.5 / 25])
    clip = prepare(still(tmp_path / "a.png"), sound, boxes=BOX)
    for offset_ms, flash in ((0, 12), (80, 10), (-120, 15)):
        frames = [
            f[40:50, 24:40].mean() for f, _ in lipsync_frames(clip, loudness, img_size=16, sync_offset_ms=offset_ms)
        ]
        assert int(np.argmax(frames)) == flash


def test_the_generator_is_always_fed_batches_of_one_size(tmp_path):
    sizes = set()

    def generator(faces, mels):
        sizes.add((detector.shape, detector.dtype, mels.shape, mels.dtype))
        return loudness(detector, mels)

    sound = tone(tmp_path / "tone.wav", 0.44)
    face = moving(tmp_path / "face.mp4", 11)
    list(lipsync_frames(prepare(face, sound, boxes=BOX), generator, img_size=16, batch_size=4))
    assert sizes == {((4, 16, 16, 6), np.dtype("f4"), (4, 80, 27, 1), np.dtype("f4"))}


@pytest.mark.parametrize("kind", ["residual", "basic", "warp", "warp_tdnn"])
def test_a_still_picture_is_looked_at_once_and_gives_what_the_whole_network_gives(tmp_path, kind):
    import keras  # loaded for this test only

    from generator import build_generator
    from lipgan.models.warp import has_lips, informed

    if keras.config.backend() == "openvino":
        pytest.skip("OpenVINO may compute in bfloat16, which an untrained network blows up")
    keras.utils.set_random_seed(0)
    model = build_generator(kind, width=1 / 64)
    for weights in model.weights:
        if weights.path.endswith("kernel"):
            weights.assign(1.4 * weights)  # as it is made, the sound hardly changes its picture ...
        if weights.path.startswith("movement"):
            weights.assign(keras.random.normal(weights.shape))  # ... or not at all
    clip = prepare(still(tmp_path / "a.png"), clicks(tmp_path / "click.wav", 0.4, [0.2]), boxes=BOX)
    once = [frame for frame, _ in lipsync_frames(clip, model, batch_size=4)]
    whole_model = informed(model) if has_lips(model) else model

    def predict(*x):
        return whole_model.predict_on_batch([*x])

    predict.wants_lips = has_lips(model)
    whole = [frame for frame, _ in lipsync_frames(clip, predict, batch_size=4)]
    assert all(np.abs(one.astype(int) - other).max() <= 1 for one, other in zip(once, whole, strict=True))
    assert (once[0] != once[5]).any()


def test_frames_can_be_had_back_from_disk_in_any_order_without_loss():
    rng = np.random.default_rng(0)
    for shape in ((37, 51, 3), (2, 2, 3), (64, 64, 3)):
        frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]
        with FrameStore() as store:
            for k, frame in enumerate(frames):
                store.put(k, frame)
            for k in (3, 1, 1, 0, 2):
                assert (store.get(k) == frames[k]).all()


def test_a_reference_of_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'typo' is none of fitted, same"):
        prepare(still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.1), boxes=BOX, reference="typo")


def test_a_stretch_of_which_nothing_can_be_decoded_is_told(tmp_path, monkeypatch):
    face, sound = moving(tmp_path / "face.mp4", 9), tone(tmp_path / "tone.wav", 0.1)
    monkeypatch.setattr(video, "read_frames", lambda *_: (frame for frame in ()))
    for options in ({"static": True}, {"start_s": 0.2}):
        with pytest.raises(UserError, match=r"no frame of .*face.mp4 can be decoded from --start"):
            prepare(face, sound, boxes=BOX, **options)


@pytest.mark.parametrize("kind", ["still", "video"])
def test_a_failing_generator_leaves_no_file_and_no_thread_behind(tmp_path, kind):
    face = still(tmp_path / "a.png") if kind == "still" else moving(tmp_path / "a.mp4", 9)
    sound, threads, calls = tone(tmp_path / "tone.wav", 4), num_threads(), []

    def generator(faces, mels):
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("on purpose")
        return loudness(detector, mels)

    before = set(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        lipsync(
            face, sound, tmp_path / "out.mp4", generator, boxes=BOX, img_size=16, made={"preview": tmp_path / "p.png"}
        )
    assert set(tmp_path.iterdir()) == before
    assert num_threads() == threads


def test_where_the_preview_cannot_be_written_there_is_no_video_either(tmp_path, monkeypatch):
    face, sound = still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.2)
    before = set(tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        lipsync(
            face, sound, tmp_path / "out.mp4", loudness, boxes=BOX, img_size=16, made={"preview": tmp_path / "p.png"}
        )
    assert set(tmp_path.iterdir()) == before


def test_closing_the_frames_early_ends_the_threads(tmp_path):
    threads = num_threads()
    frames = lipsync_frames(prepare(still(tmp_path / "a.png"), tone(tmp_path / "t.wav", 4), boxes=BOX), loudness)
    next(frames)
    frames.close()
    assert num_threads() == threads


def test_no_face_anywhere_is_told_with_the_number_of_frames(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 5), tone(tmp_path / "tone.wav", 1)
    with pytest.raises(UserError, match=r"no face found in any of the 5 frames of .*face\.mp4"):
        prepare(face, sound, boxes=np.zeros((5, 4)))


def test_a_box_outside_of_the_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="outside"):
        prepare(still(tmp_path / "a.png"), tone(tmp_path / "tone.wav", 0.2), boxes=(100, 150, 8, 56))


def test_in_a_pause_the_generator_hears_nothing_unless_the_gate_is_off(tmp_path):
    rng = np.random.default_rng(0)
    speech, noise = 0.5 * np.sin(np.arange(16_000) * 0.2), 0.0005 * rng.standard_normal(48_000)
    sound = write_wav(tmp_path / "pause.wav", np.concatenate([speech, np.zeros(16_000), speech]) + noise)
    clip = prepare(still(tmp_path / "face.png"), sound, boxes=BOX)
    gated, open_ = ([f[40:50, 24:40].mean() for f, _ in lipsync_frames(clip, loudness, silence_gate=gate)]
                    for gate in (True, False))  # fmt: skip
    assert np.ptp(gated[30:45]) == 0 and np.mean(gated[30:45]) < np.mean(open_[30:45]) - 5
    assert gated[:24] == open_[:24] and gated[51:] == open_[51:]


def test_the_paste_is_given_the_landmarks_that_the_search_has_found(tmp_path, astronaut, hog, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    clip = prepare(tmp_path / "a.png", tone(tmp_path / "tone.wav", 0.04), detector=hog)
    given, paste_back = [], pipeline.paste_back
    monkeypatch.setattr(pipeline, "paste_back", lambda *args: given.append(args[3]) or paste_back(*args))
    list(lipsync_frames(clip, white))
    top, bottom, left, right = clip.boxes[0]
    square = (top, top + (bottom - top) / (1 + hparams.crop_lengthen), left, right)
    assert np.abs(given[0] - hog.landmarks(astronaut, square)).max() < 5


def test_gaps_of_up_to_five_frames_without_a_face_are_bridged_and_longer_ones_are_not():
    square, points = np.array([10.0, 50, 10, 50]), np.zeros((68, 2), np.float32)
    found = [detector.Face(square + n, points + n) if n in (0, 6, 13, 14, 16) else None for n in range(20)]
    bridged = tracker._bridged(found, [0, 15], 5)
    assert [s is not None for s in bridged] == [n <= 6 or n in (13, 14, 16) for n in range(20)]
    np.testing.assert_allclose(bridged[3].square, square + 3)
    np.testing.assert_allclose(bridged[3].points, points + 3)


def test_a_stretch_of_a_video_is_used_smaller_and_beside_its_source(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 20), tone(tmp_path / "tone.wav", 0.4)
    out, box = tmp_path / "out.mp4", (4, 28, 4, 28)
    made = {"side_by_side": True, "lossless": True}
    lipsync(face, sound, out, white, boxes=box, start_s=0.2, end_s=0.48, resize_factor=2, made=made)
    frames = list(video.read_frames(out))
    assert len(frames) == 10 and frames[0].shape == (32, 64, 3)
    order = [5, 6, 7, 8, 9, 10, 11, 10, 9, 8]  # to the end of the stretch, and back
    assert [abs(frame[:, :32].mean() - level(k)) < 3 for frame, k in zip(frames, order, strict=True)] == [True] * 10
    assert all(frame[20:24, 44:52].mean() > frame[20:24, 12:20].mean() + 10 for frame in frames)


@pytest.mark.parametrize(
    ("fps", "order"), [(50, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), (12.5, [0, 2, 4, 6, 8]), (25, [*range(10)])]
)
def test_a_video_is_resampled_by_time_to_another_rate(tmp_path, fps, order):
    face, sound = moving(tmp_path / "face.mp4", 10), tone(tmp_path / "tone.wav", len(order) / fps)
    clip = prepare(face, sound, boxes=BOX, fps=fps)
    assert (clip.fps, clip.num_frames, len(clip.found)) == (fps, len(order), len(order))
    clip.found[:] = False
    shown = [frame for frame, _ in lipsync_frames(clip, loudness, img_size=16)]
    assert [abs(frame.mean() - level(k)) < 2.5 for frame, k in zip(shown, order, strict=True)] == [True] * len(order)


def test_a_stretch_outside_of_the_video_is_refused_with_its_length(tmp_path):
    face, sound = moving(tmp_path / "face.mp4", 20), tone(tmp_path / "tone.wav", 0.4)
    for stretch in ({"start_s": 2.0}, {"start_s": 0.5, "end_s": 0.2}):
        with pytest.raises(UserError, match=r"--start .* lasts 0\.80 s"):
            prepare(face, sound, boxes=BOX, **stretch)
