"""reference.py: whose mouth a video's generator looks at."""

import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav

from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.faces.crop import FAMILIAR_TILT, crop, rotate, rotate_points
from lipgan.faces.landmarks import EYES
from lipgan.faces.tracker import Track, follow_face
from lipgan.inference import reference
from lipgan.inference.pipeline import lipsync_frames, prepare
from lipgan.inference.reference import chosen_frames, fit_mouth, to_crop_coords, usual_frame
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


def test_the_reference_hardly_opens_its_mouth_and_does_not_purse_it():
    openings, widths = [9, 0, 1, 2, 3, 4, 5, 6, 2], [0, 0, 0, 0, 0, 0, 0, 0, -9]
    assert usual_frame(mouths(openings, widths), 0.25) == 3
    assert usual_frame(mouths(openings, widths), 0) == 1


def test_every_shot_refers_to_a_frame_of_its_own():
    points = mouths([5, 1, 0, 3, 7, 2])
    found = np.array([1, 1, 1, 0, 1, 1], bool)
    track = Track(None, found, points, np.array([0, 0, 0, 1, 1, 1]), found)
    assert chosen_frames("closed", track, 25).tolist() == [2, 2, 2, -1, 5, 5]
    assert chosen_frames("far", track, 25).tolist() == [2, 2, 2, -1, 5, 5]  # both are shorter than the gap


def test_a_frame_whose_face_was_not_seen_is_no_reference():
    found = np.ones(4, bool)
    track = Track(None, found, mouths([5, 0, 1, 7]), np.zeros(4, int), np.array([1, 0, 1, 1], bool))
    assert chosen_frames("closed", track, 25).tolist() == [2] * 4


def test_a_far_reference_is_the_first_frame_or_for_its_neighbours_the_last():
    track = Track(None, np.ones(9, bool), mouths(np.zeros(9)), np.zeros(9, int), np.ones(9, bool))
    assert chosen_frames("far", track, 25).tolist() == [8] * 6 + [0] * 3


def test_the_fitted_mouth_moves_with_the_head_and_takes_its_colour(astronaut, hog):
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
    np.testing.assert_allclose(seen, points, atol=1e-3)  # the same lips as before
    assert np.abs(fitted.astype(int) - own).mean() < 1.5  # the own mouth is back, and none of the paint
    assert np.abs(fitted.astype(int) - own)[60:84, 30:66].mean() < 4
    np.testing.assert_array_equal(fitted[:36], painted[:36])


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut):
    """(video, sound): 12 frames of the astronaut, whose mouth is painted white in the last three."""
    folder = tmp_path_factory.mktemp("clip")
    with video.VideoWriter(folder / "face.mp4", 256, 256, 25, crf=4) as writer:
        for n in range(12):
            frame = astronaut.copy()
            frame[162:182, 110:146] = frame[162:182, 110:146] if n < 9 else 255
            writer.write(frame)
    return folder / "face.mp4", write_wav(folder / "sound.wav", 12 / 25)


@pytest.mark.parametrize("way", reference.WAYS)
def test_the_generator_is_shown_the_reference_that_was_chosen(clip, hog, way):
    shown = []

    def look(faces, mels):
        shown.extend(faces)
        return faces[..., :3]

    made = prepare(*clip, detector=hog, reference=way)
    frames = list(lipsync_frames(made, look, batch_size=4))
    assert len(frames) == len(shown) == 12
    white = [(face[64:78, 40:56, :3] > 0.9).all(axis=-1).mean() > 0.3 for face in shown]
    expected = {"same": [False] * 9 + [True] * 3, "far": [True] * 6 + [False] * 6}
    assert white == expected.get(way, [False] * 12)
    upper = np.abs(shown[11][:36, :, :3] - shown[11][:36, :, 3:]).mean()
    assert (upper == 0) == (way in ("same", "fitted"))  # the frame itself but for the mouth


def tilted(picture, degrees):
    to = cv2.getRotationMatrix2D((128, 110), degrees, 1)
    return cv2.warpAffine(picture, to, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize(("degrees", "upright"), [(-22, False), (18, False), (0, True)])
def test_a_tilted_head_is_upright_for_the_generator_and_tilted_again_in_the_result(
    tmp_path, astronaut, hog, degrees, upright
):
    shown = []

    def repeat(faces, mels):
        shown.extend(faces)
        return faces[..., :3]

    cv2.imwrite(str(tmp_path / "face.png"), tilted(astronaut, degrees))
    clip = prepare(tmp_path / "face.png", write_wav(tmp_path / "sound.wav", 0.04), detector=hog)
    assert (clip.excess_roll(0) == 0) == upright
    frame, _ = next(iter(lipsync_frames(clip, repeat, batch_size=1)))
    assert np.abs(frame.astype(int) - clip.still).mean() < 1  # what comes back lies where it was
    face = (shown[0][..., :3] * 255).astype("uint8")
    eyes = [LipLandmarks().face(face)[part].mean(0) for part in EYES]
    assert abs(np.degrees(np.arctan2(*(eyes[1] - eyes[0])[::-1]))) < FAMILIAR_TILT + 2.5


def test_landmarks_turn_with_their_crop(astronaut, hog):
    track = follow_face([astronaut], 25, hog)
    points, own = to_crop_coords(track.points[0], track.boxes[0]), crop(astronaut, track.boxes[0], 96)
    moved = rotate_points(points, 15)
    assert np.linalg.norm(LipLandmarks().face(rotate(own, 15)) - moved, axis=1).mean() < 0.03
    np.testing.assert_allclose(rotate_points(moved, -15), points, atol=1e-5)
