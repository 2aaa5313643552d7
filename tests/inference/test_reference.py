"""References: whose mouth the generator uses."""

import cv2
import numpy as np
import pytest
from helpers.runners import FunctionRunner
from helpers.sounds import write_wav

from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.faces.crop import MAX_TRAINED_ROLL, crop, rotate, rotate_points
from lipgan.faces.landmarks import EYES
from lipgan.faces.occlusion import face_cells
from lipgan.faces.tracker import Track, follow_face
from lipgan.inference import reference
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.pipeline import generate_frames
from lipgan.inference.preparation import load_audio, prepare
from lipgan.inference.reference import (
    change_of_contrast,
    choose_references,
    face_contrast,
    fit_mouth,
    to_crop_coords,
    usual_frame,
)
from lipgan.inference.source import open_source
from lipgan.media import video


def mouths(openings, widths=None):
    """Landmarks of faces that look alike but for the mouth: (N, 68, 2)."""
    points = np.zeros((len(openings), 68, 2), np.float32)
    points[:, 36:42], points[:, 42:48], points[:, 30] = (30, 40), (70, 40), (50, 60)
    points[:, 62], points[:, 66] = (50, 75), (50, 75)
    points[:, 66, 1] += openings
    points[:, 48], points[:, 54] = (40, 76), (60, 76)
    points[:, 54, 0] += 0 if widths is None else widths
    return points


def test_usual_frame_is_nearly_closed_and_not_pursed():
    openings, widths = [9, 0, 1, 2, 3, 4, 5, 6, 2], [0, 0, 0, 0, 0, 0, 0, 0, -9]
    assert usual_frame(mouths(openings, widths), 0.25) == 3
    assert usual_frame(mouths(openings, widths), 0) == 1


def test_each_shot_has_a_reference_of_its_own():
    points = mouths([5, 1, 0, 3, 7, 2])
    found = np.array([1, 1, 1, 0, 1, 1], bool)
    track = Track(None, found, points, np.array([0, 0, 0, 1, 1, 1]), found)
    assert choose_references(track, 25).tolist() == [2, 2, 2, -1, 5, 5]


def test_inside_of_the_mouth_comes_from_an_open_one():
    points = mouths([5, 1, 0, 3, 7, 2])
    found, shots = np.ones(6, bool), np.array([0, 0, 0, 1, 1, 1])
    track = Track(None, found, points, shots, found)
    assert choose_references(track, 25, share=0.85).tolist() == [0, 0, 0, 4, 4, 4]
    covered = np.array([1, 0, 0, 0, 1, 0], bool)
    assert choose_references(track, 25, covered, 0.85).tolist() == [1, 1, 1, 3, 3, 3]
    assert choose_references(track, 25, ~found, 0.85)[0] == 0 and choose_references(track, 25, found, 0.85)[0] == 0


def test_bridged_frame_is_no_reference():
    found = np.ones(4, bool)
    track = Track(None, found, mouths([5, 0, 1, 7]), np.zeros(4, int), np.array([1, 0, 1, 1], bool))
    assert choose_references(track, 25).tolist() == [2] * 4


def test_fitted_mouth_follows_pose_and_colour(astronaut, hog):
    track = follow_face([astronaut], 25, hog)
    points, own = to_crop_coords(track.points[0], track.boxes[0]), crop(astronaut, track.boxes[0], 96)
    to = np.array([[1.05, 0.06, -5.0], [-0.06, 1.05, 1.0]])
    moved = cv2.warpAffine(own, to, (96, 96), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    moved = cv2.add(moved, (10.0, 20.0, -15.0, 0.0))
    moved_points = ((points * 96 - 0.5) @ to[:, :2].T + to[:, 2] + 0.5) / 96
    painted = own.copy()
    lips = (points[48:] * 96).round().astype(np.int32)
    cv2.fillConvexPoly(painted, cv2.convexHull(lips), (0, 255, 0))
    fitted, seen = fit_mouth(moved, moved_points.astype("float32"), painted, points)
    fitted = fitted.onto(painted)
    np.testing.assert_allclose(seen, points, atol=1e-3)  # the same lips as before
    assert np.abs(fitted.astype(int) - own).mean() < 1.5  # the own mouth is back, and none of the paint
    assert np.abs(fitted.astype(int) - own)[60:84, 30:66].mean() < 4
    np.testing.assert_array_equal(fitted[:34], painted[:34])


@pytest.mark.parametrize("level", [0.5, 0.1, 0.02])
def test_fitted_mouth_is_as_dark_as_a_fade(astronaut, hog, level):
    track = follow_face([astronaut], 25, hog)
    points, bright = to_crop_coords(track.points[0], track.boxes[0]), crop(astronaut, track.boxes[0], 96)
    dark = (bright * level + 0.5).astype(np.uint8)
    fitted, _ = fit_mouth(bright, points, dark, points)
    assert np.abs(fitted.onto(dark).astype(int) - dark).max() <= 2


@pytest.mark.parametrize(("before", "after"), [(0, 100), (100, 0)])
def test_fitted_mouth_follows_a_change_of_black_level(astronaut, hog, before, after):
    track = follow_face([astronaut], 25, hog)
    box, points = track.boxes[0], track.points[0]
    images = [(astronaut * 0.6 + level).astype(np.uint8) for level in (before, after)]
    contrast = change_of_contrast(*face_contrast(np.stack([face_cells(image, points) for image in images]), 2))
    reference, own = (crop(image, box, 96) for image in images)
    local, lips = to_crop_coords(points, box), (slice(60, 80), slice(36, 60))
    by_gain, by_both = (
        fit_mouth(reference, local, own, local, c)[0].onto(own).astype(int) - own for c in (1, contrast)
    )
    assert np.abs(by_both[lips]).mean() < 0.4 * np.abs(by_gain[lips]).mean()


@pytest.mark.parametrize("gain", [0.3, 0.7, 1.4])
def test_lamps_change_no_contrast(astronaut, hog, gain):
    points = follow_face([astronaut], 25, hog).points[0]
    cells = [face_cells((astronaut * level).astype(np.uint8), points) for level in (0.6, 0.6 * gain)]
    assert change_of_contrast(*face_contrast(np.stack(cells), 2)) == 1
    assert change_of_contrast(*face_contrast(None, 2)) == 1


def test_lips_in_red_light_get_no_other_colour(astronaut, hog):
    track = follow_face([astronaut], 25, hog)
    points, own = to_crop_coords(track.points[0], track.boxes[0]), crop(astronaut, track.boxes[0], 96)
    red = (own * (0.004, 0.01, 0.3)).astype(np.uint8)  # blue is 0 or 1, and as much noise
    noisy = red.copy()
    noisy[..., 0] += 1
    lips = slice(68, 72), slice(46, 50)
    red[lips][..., 0] += 12  # a highlight of the reference's lips
    fitted, _ = fit_mouth(red, points, noisy, points)
    assert fitted.onto(noisy)[lips][..., 0].max() < 20


def test_dark_frames_of_a_fade_are_no_reference():
    found, openings = np.ones(6, bool), [0, 0, 0, 1, 3, 2]
    light = np.array([2, 20, 40, 100, 110, 105], np.float32)
    track = Track(None, found, mouths(openings), np.zeros(6, int), found)
    assert choose_references(track, 25).tolist() == [0] * 6
    assert choose_references(track._replace(light=light), 25)[0] >= 3


@pytest.mark.parametrize("light", [0.15, (1, 0.3, 0.3)])
def test_a_change_of_light_is_no_cut(astronaut, hog, light):
    other_light, other_view = (astronaut * light).astype(np.uint8), np.ascontiguousarray(astronaut[::-1, ::-1])
    assert np.ptp(follow_face([astronaut, other_light], 25, hog).shots) == 0
    assert np.ptp(follow_face([astronaut, other_view], 25, hog).shots) == 1


def test_dark_face_is_brightened_for_the_generator_and_darkened_back(tmp_path, astronaut):
    means = {}
    for level in (1.0, 0.1):
        cv2.imwrite(str(tmp_path / "face.png"), (astronaut * level).astype(np.uint8))
        options, faces = LipsyncOptions(detector="hog"), []
        # What it saw comes out again.
        runner = FunctionRunner(lambda seen, audio, faces=faces: faces.append(seen) or seen[..., :3], img_size=96)
        source = open_source(tmp_path / "face.png", options)
        clip = prepare(source, load_audio(write_wav(tmp_path / "a.wav", 0.04), options), options)
        [(frame, _)] = generate_frames(clip, runner, options)
        means[level] = faces[0][..., :3].mean() * 255
        assert np.abs(frame.astype(int) - source.image).mean() < 1
    assert abs(means[0.1] - 45) < 1 and means[1.0] > 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut):
    """(video, sound): 12 frames of the astronaut, whose mouth is painted white in the last three."""
    folder = tmp_path_factory.mktemp("clip")
    with video.VideoWriter(folder / "face.mp4", 256, 256, 25, encoding=video.Encoding(crf=4)) as writer:
        for n in range(12):
            frame = astronaut.copy()
            frame[162:182, 110:146] = frame[162:182, 110:146] if n < 9 else 255
            writer.write(frame)
    return folder / "face.mp4", write_wav(folder / "sound.wav", 12 / 25)


@pytest.mark.parametrize("mode", reference.REFERENCE_MODES)
def test_generator_gets_the_reference_of_the_mode(clip, mode):
    shown = []

    def look(faces, mels):
        shown.extend(faces)
        return faces[..., :3]

    options = LipsyncOptions(detector="hog", reference=mode)
    prepared = prepare(open_source(clip[0], options), load_audio(clip[1], options), options)
    frames = list(generate_frames(prepared, FunctionRunner(look, 96, 4), options))
    assert len(frames) == len(shown) == 12
    white = [(face[64:78, 40:56, :3] > 0.9).all(axis=-1).mean() > 0.3 for face in shown]
    assert white == ([False] * 9 + [True] * 3 if mode == "same" else [False] * 12)
    assert np.abs(shown[11][:32, :, :3] - shown[11][:32, :, 3:]).mean() == 0  # the frame itself but for the mouth


def tilted(picture, degrees):
    to = cv2.getRotationMatrix2D((128, 110), degrees, 1)
    return cv2.warpAffine(picture, to, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize(("degrees", "upright"), [(-22, False), (18, False), (0, True)])
def test_rolled_head_is_upright_for_the_generator_only(tmp_path, astronaut, degrees, upright):
    shown = []

    def repeat(faces, mels):
        shown.extend(faces)
        return faces[..., :3]

    cv2.imwrite(str(tmp_path / "face.png"), tilted(astronaut, degrees))
    options = LipsyncOptions(detector="hog")
    source = open_source(tmp_path / "face.png", options)
    clip = prepare(source, load_audio(write_wav(tmp_path / "sound.wav", 0.04), options), options)
    assert (clip.excess_roll(0) == 0) == upright
    frame, _ = next(generate_frames(clip, FunctionRunner(repeat, 96, 1), options))
    assert np.abs(frame.astype(int) - clip.source.image).mean() < 1  # what comes back lies where it was
    face = (shown[0][..., :3] * 255).astype("uint8")
    eyes = [LipLandmarks().face(face)[part].mean(0) for part in EYES]
    assert abs(np.degrees(np.arctan2(*(eyes[1] - eyes[0])[::-1]))) < MAX_TRAINED_ROLL + 2.5


def test_landmarks_rotate_with_their_crop(astronaut, hog):
    track = follow_face([astronaut], 25, hog)
    points, own = to_crop_coords(track.points[0], track.boxes[0]), crop(astronaut, track.boxes[0], 96)
    moved = rotate_points(points, 15)
    assert np.linalg.norm(LipLandmarks().face(rotate(own, 15)) - moved, axis=1).mean() < 0.03
    np.testing.assert_allclose(rotate_points(moved, -15), points, atol=1e-5)
