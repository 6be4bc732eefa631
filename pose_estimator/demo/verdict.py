"""Whether the poses of the demo were right."""

from dataclasses import dataclass

import numpy as np

from .. import pose_error
from ..geometry import Pose
from ..object_model import Symmetries

# Frames count in which this share of an object is visible; in so many of them it must be
# found, and so many of the poses found must be this near the truth.
VISIBLE = 0.4
FOUND_SHARE = 0.8
RIGHT_SHARE = 0.9
DISTANCE_SHARE = 0.05
DEGREES = 10.0
# A cup without its handle is round.
ROUND = Symmetries(continuous=(((0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),))
TURNS = 360


@dataclass(frozen=True)
class Truth:
    """
    What is true of one frame.

    Attributes
    ----------
    poses : dict of name -> Pose
    visible : dict of name -> float
    handle_visible : bool
        Whether any of the cup's handle is seen.

    """

    poses: dict
    visible: dict
    handle_visible: bool


@dataclass(frozen=True)
class Finding:
    """
    One published pose.

    Attributes
    ----------
    name : str
        Of the object.
    instance : str
        Of the object in the image.
    pose : Pose
    score : float
    latency : float
        Seconds from the image's stamp until the pose arrived.

    """

    name: str
    instance: str
    pose: Pose
    score: float
    latency: float


@dataclass(frozen=True)
class Error:
    """
    How far a pose is from the truth, up to symmetry.

    Attributes
    ----------
    metres : float
    share : float
        Of the true distance.
    degrees : float

    """

    metres: float
    share: float
    degrees: float

    @property
    def is_right(self):
        """Whether the pose is near enough."""
        return self.share <= DISTANCE_SHARE and self.degrees <= DEGREES


@dataclass(frozen=True)
class Summary:
    """
    One object over all frames in which enough of it is visible.

    Attributes
    ----------
    name : str
    frames : int
    found : int
        Frames with at least one pose.
    findings : list of Finding
    errors : list of Error

    """

    name: str
    frames: int
    found: int
    findings: list
    errors: list

    @property
    def right(self):
        """How many of the poses are right."""
        return sum(error.is_right for error in self.errors)

    @property
    def passed(self):
        """Whether the object was found often enough and its poses were right."""
        return (self.frames > 0 and self.found >= FOUND_SHARE * self.frames
                and self.right >= RIGHT_SHARE * len(self.errors))


class Judge:
    """
    Compares poses with the truth.

    Parameters
    ----------
    models : dict of name -> ObjectModel
    network_input : str
        'rgb_mask' or 'mask', which decides what cannot be told apart.

    """

    def __init__(self, models, network_input):
        self._symmetries = {name: model.symmetries_for(network_input).transforms(TURNS)
                            for name, model in models.items()}
        self._round = ROUND.transforms(TURNS)

    def measure(self, finding, truth):
        """Return the Error of a Finding."""
        allowed = self._symmetries[finding.name]
        if finding.name == 'cup' and not truth.handle_visible:
            allowed = self._round
        true = truth.poses[finding.name]
        # trace(A^T B) is the sum over the elements of A * B.
        turned = true.R_m2c.T @ finding.pose.R_m2c
        cosines = [(np.sum(turned * one.R_m2c) - 1) / 2 for one in allowed]
        best = true.compose(allowed[int(np.argmax(cosines))])
        metres = pose_error.te(finding.pose, best)
        return Error(metres, metres / float(np.linalg.norm(best.t_m2c)),
                     pose_error.re(finding.pose, best))

    def summarise(self, truths, findings):
        """
        Return a Summary of each object.

        Parameters
        ----------
        truths : dict of stamp -> Truth
            All frames.
        findings : dict of stamp -> list of Finding
            What was published for them.

        """
        summaries = []
        for name in self._symmetries:
            stamps = [stamp for stamp, truth in truths.items()
                      if truth.visible.get(name, 0) >= VISIBLE]
            own = {stamp: [one for one in findings.get(stamp, ()) if one.name == name]
                   for stamp in stamps}
            judged = [(one, self.measure(one, truths[stamp]))
                      for stamp in stamps for one in own[stamp]]
            summaries.append(Summary(name, len(stamps), sum(map(bool, own.values())),
                                     [one for one, _ in judged], [one for _, one in judged]))
        return summaries
