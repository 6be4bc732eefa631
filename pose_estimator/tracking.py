"""Identity: which pose of an image is which object of the images before."""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from .geometry import Pose
from .smoothing import Smoother

# A pose is of a known object when it lies within this of the object's last place, in diameters
# and, since depth is the uncertain direction, in shares of the distance.
GATE_DIAMETERS, GATE_DISTANCE = 0.75, 0.1
SYMMETRY_STEPS = 72


@dataclass(eq=False)
class Track:
    """
    One object in view.

    Attributes
    ----------
    name : str
        Of the model.
    number : int
        From 1; no two objects of a name have the same at a time.
    pose : Pose
        The last one.
    seen : float
        Time of that in seconds.
    sightings : int
    score : float
        The last one.
    smoother : Smoother
        Of its poses, for who wants them smoothed.

    """

    name: str
    number: int
    pose: Pose
    seen: float
    sightings: int
    score: float
    smoother: Smoother = field(default_factory=Smoother)

    @property
    def id(self):  # noqa: A003
        """Name for people and frames, such as cup_1."""
        return f'{self.name}_{self.number}'


class Tracker:
    """
    Gives poses the identity of what they show.

    Poses are matched in the camera's frame, so it is for cameras and objects that move little
    from image to image; what leaves its place faster is taken for another object.

    Parameters
    ----------
    models : dict
        Name -> ObjectModel.
    network_input : str
        Whose symmetries hold.
    sightings : int
        Images in which an object must be seen before it is given out.
    memory : float
        Seconds for which an unseen object keeps its identity.

    """

    def __init__(self, models, network_input='rgb_mask', sightings=1, memory=1.0):
        self.sightings, self.memory = sightings, memory
        self.tracks: list = []
        self._models = models
        self._turns = {name: model.symmetries_for(network_input).transforms(SYMMETRY_STEPS)
                       for name, model in models.items()}
        self._last = -np.inf

    def update(self, found, stamp):
        """
        Match the poses of one image.

        Parameters
        ----------
        found : sequence of ObjectPose
            Of one image; those without a pose are left out.
        stamp : float
            The image's time in seconds. An image that comes late is named but not learned from;
            when time goes back by more than the memory, all is forgotten.

        Returns
        -------
        named : list of (Track, ObjectPose)
            In the order given, of objects seen often enough; for symmetric ones with that
            orientation of the equal ones that is nearest to the last.

        """
        if stamp < self._last - self.memory:
            self.tracks, self._last = [], -np.inf
        is_late = stamp < self._last
        self._last = max(stamp, self._last)
        self.tracks = [track for track in self.tracks if stamp - track.seen <= self.memory]
        named = {}
        places = {id(one): place for place, one in enumerate(found)}
        for name in sorted({one.name for one in found if one.pose is not None}):
            poses = [one for one in found if one.name == name and one.pose is not None]
            tracks = [track for track in self.tracks if track.name == name]
            matched = self._match(name, tracks, poses)
            for index, one in enumerate(poses):
                place = places[id(one)]
                if index in matched:
                    track = tracks[matched[index]]
                    one = replace(one, pose=self._nearest_turn(name, one.pose, track.pose))
                    if not is_late:
                        track.pose, track.seen, track.score = one.pose, stamp, one.score
                        track.sightings += 1
                elif is_late:
                    continue
                else:
                    track = Track(name, self._free_number(name), one.pose, stamp, 1, one.score)
                    self.tracks.append(track)
                if track.sightings >= self.sightings:
                    named[place] = track, one
        return [named[place] for place in sorted(named)]

    def best(self, name, current=None):
        """
        Return the track of a name that a planner should hold on to, None if there is none.

        Parameters
        ----------
        name : str
            Of the model.
        current : Track or None
            What was held before: kept until it dies.

        """
        alive = [track for track in self.tracks
                 if track.name == name and track.sightings >= self.sightings]
        if any(track is current for track in alive):
            return current
        return max(alive, key=lambda track: track.score, default=None)

    def _match(self, name, tracks, poses):
        """Return {index of pose: index of track}, the nearest together within the gate."""
        if not tracks or not poses:
            return {}
        center = self._models[name].center[None]
        before = np.concatenate([track.pose.transform(center) for track in tracks])
        now = np.concatenate([one.pose.transform(center) for one in poses])
        distance = np.linalg.norm(now[:, None] - before[None], axis=2)
        gate = (GATE_DIAMETERS * self._models[name].diameter
                + GATE_DISTANCE * np.linalg.norm(before, axis=1))
        cost = np.where((distance <= gate) & np.isfinite(distance), distance, 1e6)
        rows, columns = linear_sum_assignment(cost)
        return {int(row): int(column) for row, column in zip(rows, columns)
                if cost[row, column] < 1e6}

    def _free_number(self, name):
        taken = {track.number for track in self.tracks if track.name == name}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def _nearest_turn(self, name, pose, last):
        """Return the pose, under the symmetry that turns it least from the last one."""
        turned = [pose.compose(turn) for turn in self._turns[name]]
        likeness = [np.trace(last.R_m2c.T @ one.R_m2c) for one in turned]
        return turned[int(np.argmax(likeness))]
