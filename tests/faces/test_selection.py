"""FaceSelection: the selected face is followed, also across cuts, and no other one."""

import pathlib

import cv2
import numpy as np
import pytest

from lipgan.faces.detector import FaceDetector, overlap
from lipgan.faces.selection import FaceSelection, draw_faces, list_faces
from lipgan.faces.tracker import find_boxes
from lipgan.utils.cli import UserError

ASTRONAUT = cv2.imread(str(pathlib.Path(__file__).parents[2] / "examples" / "astronaut.jpg"))[0:256, 96:352]


def other_person():
    """Return a face of another person by the descriptor: the astronaut's, narrow, dark and mirrored."""
    narrow = cv2.resize(ASTRONAUT, (176, 256), interpolation=cv2.INTER_AREA)[:, ::-1]
    image = np.full_like(ASTRONAUT, 40)
    image[:, 40:216] = (narrow * (0.75, 0.6, 0.5)).astype("uint8")
    return image


@pytest.fixture(scope="module")
def pair():
    """Two faces side by side, the left one smaller: (256, 512, 3)."""
    small = np.full_like(ASTRONAUT, 90)
    small[40:232, 32:224] = cv2.resize(ASTRONAUT, (192, 192), interpolation=cv2.INTER_AREA)
    return np.hstack([small, ASTRONAUT])


def middle(box):
    return (box[2] + box[3]) / 2


def test_largest_face_is_the_default_and_others_are_selected_by_index_or_box(pair, hog):
    squares = list_faces(hog, pair)
    assert [middle(square) < 256 for square in squares] == [True, False]
    for selection, left in (
        (FaceSelection(), False),
        (FaceSelection(index=0), True),
        (FaceSelection(index=1), False),
        (FaceSelection(box=[int(v) for v in squares[0]]), True),
    ):
        boxes, found = find_boxes([pair] * 3, 25, hog, selection=selection)
        assert found.all() and (middle(boxes[2]) < 256) == left


def test_missing_face_raises_user_error(pair, hog):
    with pytest.raises(UserError, match="has 2"):
        find_boxes([pair], 25, hog, selection=FaceSelection(index=2))
    with pytest.raises(UserError, match="no face found there"):
        find_boxes([pair], 25, hog, selection=FaceSelection(box=(0, 20, 0, 20)))
    with pytest.raises(UserError, match="exclude each other"):
        FaceSelection(index=0, box=(0, 20, 0, 20))
    with pytest.raises(UserError, match="--ref_face: no face"):
        FaceSelection(image=np.full((64, 64, 3), 90, "uint8"))


def test_person_is_recognised_after_a_cut_anywhere_in_the_frame(pair, hog):
    mirrored = np.ascontiguousarray(pair[:, ::-1])  # the same person, elsewhere: nearest of the two by descriptor
    boxes, found = find_boxes([pair] * 2 + [mirrored] * 2, 25, hog, selection=FaceSelection(index=1))
    assert found.all() and overlap(boxes[0], boxes[3]) < 0.2


def test_shot_without_the_person_has_no_boxes():
    class Distances(FaceSelection):
        """A selection to which every face of a later shot is unlike."""

        def distance(self, detector, frame, square):
            return 0.9

    hog = FaceDetector("hog")
    empty = np.full_like(ASTRONAUT, 90)
    frames = [ASTRONAUT] * 3 + [empty] * 3 + [other_person()] * 3
    _, found = find_boxes(frames, 25, hog, selection=Distances())
    assert found.tolist() == [True] * 3 + [False] * 6
    _, found = find_boxes(frames[:6] + [ASTRONAUT] * 3, 25, hog, selection=FaceSelection())
    assert found.tolist() == [True] * 3 + [False] * 3 + [True] * 3


def test_face_is_selected_by_a_photo(pair, hog):
    selection = FaceSelection(image=ASTRONAUT)
    squares = list_faces(hog, ASTRONAUT)
    assert selection.distance(hog, ASTRONAUT, squares[0]) < 0.3
    assert selection.settings["person"] != FaceSelection(image=ASTRONAUT[:, ::-1].copy()).settings["person"]
    _, found = find_boxes([pair] * 2, 25, hog, selection=selection)
    assert found.all()


def test_drawn_faces_have_boxes(pair, hog):
    squares = list_faces(hog, pair)
    drawn = draw_faces(pair, squares)
    assert drawn.shape == pair.shape
    for square in squares:
        top, _, left, right = np.round(square).astype(int)
        assert (drawn[top, max(0, left) : right] == (0, 255, 255)).all(axis=-1).mean() > 0.9
