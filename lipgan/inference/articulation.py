"""How far this person's lips move: who mumbles in a video goes on mumbling, who opens the mouth wide goes on doing so.

How wide somebody opens the mouth cannot be heard: among people with equal speech the deviation of the opening differs
by a factor of two. A video shows it. From a still image only the speech is known, and the generator moves the lips too
little where it is unsure, which the disagreement of its members tells.
"""

import numpy as np

RATE = 25  # openings a second
LISTEN = 3000  # feature vectors, 60 s, of the speech, from which it is judged how far the lips would move
WINDOW = 25  # openings: 1 s, in which the deviation is measured
MOVING = 0.33  # of the largest deviation in a window: below it nothing is said
SPEAKING = 0.007  # of the crop's side: deviation of the opening of people who do speak, at least
RENDERED = 1.2  # rendered lips, as dlib sees them, move that much less far than they are asked to (4 videos)
OWN_POWER = 0.7  # by how much a person's own deviation in one recording tells that in another one (measured on GRID)
LIMITS = 0.6, 1.5
# Factors for members that hardly disagree, as on sentences like those learned from, and that do, as on free speech.
SURE, UNSURE = (0.13, 0.75), (0.27, 1.05)  # (disagreement, factor)


def deviation(openings) -> float:
    """Return the standard deviation of mouth openings (N,) within a second, where the mouth moves; 0 if N < 25."""
    count = len(openings) // WINDOW
    if not count:
        return 0.0
    within = np.asarray(openings)[: count * WINDOW].reshape(count, WINDOW).std(axis=1)
    return float(np.sqrt(np.mean(within[within >= MOVING * within.max()] ** 2)))


def motion_gain(members, own_deviation=None) -> float:
    """Return by what the lips' predicted motion is to be multiplied.

    members: (N, M), the openings that each member of the generator's `audio_to_lips` predicts for the speech, RATE a
    second. own_deviation: `deviation` of the person's openings in the video; None or less than SPEAKING: unknown.
    """
    mean = members.mean(axis=1)
    predicted = deviation(mean)
    if not predicted:
        return 1.0
    if own_deviation is not None and own_deviation >= SPEAKING:
        return float(np.clip((RENDERED * own_deviation / predicted) ** OWN_POWER, *LIMITS))
    disagreement = np.sqrt(np.mean((members - mean[:, None]) ** 2)) / mean.std()
    return float(np.interp(disagreement, *zip(SURE, UNSURE, strict=True)))
