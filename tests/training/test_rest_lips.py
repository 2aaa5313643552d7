"""Training of the network that knows lips at rest."""

import numpy as np
import pytest
from helpers.mouths import lips

from lipgan.faces import rest_lips
from lipgan.faces.landmarks import opening
from lipgan.training.rest_lips import draw_smile, fit_rest_model, person_samples, rest_error


def talking(width, rng):
    """Return lips (N, 40) of a person about the base of the nose, and the rest shape."""
    frames = np.stack([lips(width, gap) for gap in rng.uniform(0, 0.08, 200)]) - np.tile([0.5, 0.6], 20)
    return frames, rest_lips.closed_lips(frames)


def test_smiles_are_wider_and_no_less_open():
    rng = np.random.default_rng(0)
    neutral = talking(0.13, rng)[0]
    smiles = draw_smile(neutral, rng)
    width = smiles[:, 12] - smiles[:, 0]
    assert (width >= (neutral[:, 12] - neutral[:, 0]) - 1e-6).all() and np.ptp(width) > 0.02
    gaps = opening(smiles.reshape(-1, 20, 2)) - opening(neutral.reshape(-1, 20, 2))
    assert gaps.min() > -1e-6 and gaps.max() > 0.03


def test_samples_of_a_person_are_upright_about_the_nose():
    points = np.zeros((30, 68, 2))
    points[:, 36:42], points[:, 42:48], points[:, 31:36] = (0.3, 0.4), (0.7, 0.4), (0.5, 0.6)
    points[:, rest_lips.LIPS] = lips(0.13, 0.01).reshape(20, 2)
    turned = points @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    for landmarks in (points, turned):
        frames, rest = person_samples(landmarks)
        np.testing.assert_allclose(frames[0].reshape(20, 2), points[0, rest_lips.LIPS] - (0.5, 0.6), atol=1e-9)
        np.testing.assert_allclose(rest, frames[0])


@pytest.mark.slow
def test_network_learns_and_its_constants_are_read_back(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    people = [talking(width, rng) for width in (0.11, 0.12, 0.14)]
    model = fit_rest_model(people, 150)
    stranger, before = [talking(0.13, rng)], rest_error(None, [talking(0.13, rng)], np.random.default_rng(1), 200)
    after = rest_error(model, stranger, np.random.default_rng(1), 200)
    assert after[0] < 0.6 * before[0] and after[1] < 0.6 * before[1]
    rest_lips.save_model(model, tmp_path / "rest_lips.npz")
    monkeypatch.setattr(rest_lips, "__file__", str(tmp_path / "rest_lips.py"))
    mouths = stranger[0][0][:5]
    np.testing.assert_allclose(
        rest_lips.load_model.__wrapped__().expression(mouths), model.expression(mouths), atol=1e-6
    )
