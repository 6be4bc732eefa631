"""What a trained network is worth on held-back virtual data: figures, pictures, card."""

from concurrent.futures import ProcessPoolExecutor
import contextlib
from dataclasses import dataclass, replace
import functools
import multiprocessing
import os
import pickle
import signal
import sys
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import chi2
import torch
from tqdm import tqdm

from .predictor import KeypointPredictor
from ..camera import CropCamera, PinholeCamera
from ..devices import keep_freed_memory
from ..geometry import Pose
from ..instance import Instance
from ..pipeline import EXPLAINED, gather, is_surer, sight
from ..pose_error import add, adi
from ..refinement.refiner import NOT_REFINED, Refiner
from ..scoring import (
    calibration_error, calibration_of, DISTANCE_UNSURE, FEATURES, fit_calibration, fit_distance,
    RIGHT, score, sure_score)
from ..sighting import sight_chance

# With half as many, what can be published (at95) still changes by a tenth to a third from one draw
# to another (docs/experiments.md).
SAMPLES = 1280
# Looked at in batches, by as many processes as there are cores and so many batches for each: a
# process takes seconds to start, and more than a gigabyte of memory.
BATCH, LEAST_BATCHES, MOST_PROCESSES = 16, 10, 4
# Nothing is fitted to fewer poses.
LEAST_FITTED = 20
# What there is instead: a network that finds nothing is never sure.
NEVER_SURE = {'mean': [0.0] * len(FEATURES), 'scale': [1.0] * len(FEATURES),
              'weights': [0.0] * len(FEATURES), 'bias': -5.0, 'covariance_scale': 1.0}
# True distances for each sample, as unsure as the real ones, under which poses are right or not.
DISTANCES = 8
# The virtual pictures are wider than a crop by this, for the pipeline to cut its crops from.
FIELD = 2
# So many samples are shown in the report.
PICTURES = 24


@dataclass(frozen=True, eq=False)
class Findings:
    """
    Outcome of evaluate_virtually.

    Attributes
    ----------
    scores : dict
        Plain numbers for the card.
    calibration : dict
        See scoring.py.
    visible : array, shape (N,)
        Visible share of each sample.
    is_right : array of bool, shape (N,)
        Of each sample, for the pose that the pipeline takes, with the mask or without.
    pictures : list of (crop (S, S, 3) uint8 RGB, truth (K, 2), found (K, 2), confidence (K,))
        With the mask.

    """

    scores: dict
    calibration: dict
    visible: np.ndarray
    is_right: np.ndarray
    pictures: list


@dataclass(frozen=True, eq=False)
class _Outcome:
    """
    What became of one sample.

    Attributes
    ----------
    features : array, shape (F,)
        What the score sees.
    is_right : bool
        By ADD, or ADD-S where the object has symmetries.
    share : float
        The chance to be right where distances are as unsure as real ones.
    nees : float
        Normalised squared error, NaN where the pose is wrong.
    shift, angle : float
        From the true pose, diameters and degrees.
    by_landmarks : bool
        Whether the pose is theirs.

    """

    features: np.ndarray
    is_right: bool
    share: float
    nees: float
    shift: float
    angle: float
    by_landmarks: bool


class _Judge:
    """Tells what became of the samples of one object."""

    def __init__(self, model, network_input, seed):
        self._model = model
        self._turns = model.symmetries_for(network_input).transforms(36)
        self._away = adi if len(self._turns) > 1 else add
        self._rng = np.random.default_rng(seed)

    def outcome(self, seen, true_pose):
        """Return the _Outcome of Evidence that has a pose."""
        model, result = self._model, seen.result
        pose = result.pose
        nearest = _nearest(pose, true_pose, self._turns, model.points)
        near = RIGHT * model.diameter
        is_right = self._away(pose, true_pose, model.points) < near
        # The score must also hold where nothing is as exact as here.
        apart = [Pose(true_pose.R_m2c, true_pose.t_m2c * factor)
                 for factor in np.exp(self._rng.normal(0, DISTANCE_UNSURE, DISTANCES))]
        share = np.mean([self._away(pose, one, model.points) < near for one in apart])
        turn = Rotation.from_matrix(pose.R_m2c @ nearest.R_m2c.T).as_rotvec()
        move = pose.t_m2c - nearest.t_m2c
        nees = np.nan
        # By ADD-S a pose may count as right that is none of those that look alike.
        if add(pose, nearest, model.points) < near:
            error = np.concatenate([move, turn])
            nees = error @ np.linalg.pinv(result.covariance) @ error
        return _Outcome(seen.features(model.diameter), bool(is_right), float(share), float(nees),
                        float(np.linalg.norm(move) / model.diameter),
                        float(np.degrees(np.linalg.norm(turn))), seen.landmarks > 0)


def evaluate_virtually(checkpoint, sampler, easy=1.0, fit=True, refiner=None):
    """
    Measure keypoints and poses on virtual crops, and calibrate the score.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its calibration is used only if none is to be fitted.
    sampler : CropSampler
        Of held-back views, with crops FIELD times as large and as wide as the network's.
    easy : float
        From this share of the sampler's faults to all of them.
    fit : bool
        Fit the calibration, to half of the poses to measure it on the others, then the score to
        all of them. Else the checkpoint's own is measured on all of them.
    refiner : Refiner or None
        What mends the poses, if the network sees colours; None: the shipped one.

    Returns
    -------
    Findings

    """
    if checkpoint.surface is None:
        refiner = None
    elif refiner is None:
        refiner = Refiner.shipped()
    # With masks, and where those are not all that is seen, without them.
    ways = (True,) if checkpoint.surface is None else (True, False)
    seeds = sampler.seeds(2)
    if fit:
        batches = _Batches.of(replace(checkpoint, calibration={}), None, sampler, easy, ways,
                              seeds[1])
        checkpoint = replace(checkpoint, calibration=_joined(
            {way: {'distance': distance} for way, distance in _fitted_distances(batches).items()}))
    batches = _Batches.of(checkpoint, refiner, sampler, easy, ways, seeds[0])
    outcomes = {way: [] for way in ways}
    point_error, visible, pictures = [], [], []
    for found in batches.each(_examine, 'measuring'):
        for way in ways:
            outcomes[way].extend(found.outcomes[way])
        point_error.extend(found.point_error)
        visible.extend(found.visible)
        pictures.extend(found.pictures)
    half = len(visible) // 2 if fit else 0
    calibration = checkpoint.calibration
    fitted_to_half = {way: calibration_of(calibration, way) for way in ways}
    if fit:
        fitted, fitted_to_half = {}, {}
        for way, found in outcomes.items():
            taught = calibration_of(calibration, way)
            if sum(one is not None for one in found) < LEAST_FITTED:
                fitted[way] = fitted_to_half[way] = {**taught, **NEVER_SURE}
                continue
            fitted_to_half[way] = {**taught, **_fitted(found[:half], found[:half])}
            # Once it is known what half of them is good for, all have a say in the score.
            fitted[way] = {**taught, **_fitted(found, found[:half])}
            # Rather too wide than too narrow: of both halves, the one with the larger errors
            # counts.
            left = _nees(found[half:]) / fitted[way]['covariance_scale']
            if len(left):
                fitted[way]['covariance_scale'] *= max(1.0, float(left.mean()) / 6)
        calibration = _joined(fitted)
        # Of the virtual poses as they are: with unsure distances, small things far away could
        # never be sure, however well they are seen.
        taken = [one for one in map(_taken, *_columns(outcomes, fitted)) if one is not None]
        calibration['sure_score'] = 1.0 if len(taken) < LEAST_FITTED else sure_score(
            np.array([chance for _, chance, _ in taken]),
            np.array([one.is_right for one, _, _ in taken], bool))
        calibration['refiner'] = refiner.fingerprint if refiner else ''
    everything = list(map(_taken, *_columns(outcomes, fitted_to_half)))
    held_back = [one for one in everything[half:] if one is not None]
    chance = np.array([chance for _, chance, _ in held_back])
    gap = (calibration_error(chance, np.array([one.share for one, _, _ in held_back]))
           if held_back else np.nan)
    left = np.array([one.nees / fitted_to_half[way]['covariance_scale']
                     for one, _, way in held_back])
    left = left[np.isfinite(left)]
    taken = [one for one, _, _ in filter(None, everything)]
    is_right = np.array([one is not None and one[0].is_right for one in everything])
    scores = {
        'samples': len(is_right), 'add_0.1d': 100 * float(np.mean(is_right)),
        'keypoint_error_px': float(np.median(np.concatenate(point_error))),
        'rotation_deg': float(np.median([one.angle for one in taken])) if taken else None,
        'translation_of_diameter': float(np.median([one.shift for one in taken]))
        if taken else None,
        'no_pose': 100 * (1 - len(taken) / len(is_right)),
        'without_mask': 100 * sum(not one[2] for one in filter(None, everything))
        / len(is_right) if False in ways else None,
        'by_landmarks': 100 * sum(one.by_landmarks for one in taken) / len(is_right),
        'calibration_error': float(gap),
        'covered_95': 100 * float(np.mean(left <= chi2.ppf(0.95, 6))) if len(left) else None,
        'mean_nees': float(left.mean()) if len(left) else None}
    return Findings(scores, calibration, np.array(visible), is_right, pictures)


def _joined(calibrations):
    """Return as one calibration those with masks (True) and without (False); see scoring.py."""
    joined = dict(calibrations[True])
    if False in calibrations:
        joined['without_mask'] = calibrations[False]
    return joined


def _is_usable(seen, refiner, use_masks):
    """Return whether the pipeline would give Evidence a score."""
    if seen.result.pose is None or (refiner is not None and seen.refinement is NOT_REFINED):
        return False
    # It would not have looked without a mask where there is none.
    return use_masks or ((seen.mask > 127).any() and seen.agreement[0] >= EXPLAINED)


def _fitted(found, for_covariance):
    """Return what fit_calibration makes of _Outcomes, some of them None."""
    poses = [one for one in found if one is not None]
    return fit_calibration([one.features for one in poses], [one.share for one in poses],
                           _nees(for_covariance))


def _nees(found):
    """Return the normalised squared errors of the right poses among _Outcomes."""
    nees = np.array([one.nees for one in found if one is not None])
    return nees[np.isfinite(nees)]


def _columns(outcomes, calibrations):
    """Return for each way a list of (_Outcome, score, way), None where there is no pose."""
    return [[one and (one, score(one.features, calibrations[way]), way) for one in found]
            for way, found in outcomes.items()]


def _taken(first, second=None):
    """Return that of both ways to look at a sample which the pipeline takes."""
    if None not in (first, second) and is_surer(first[1], second[1]):
        return second
    return first


@dataclass(frozen=True, eq=False)
class _Batches:
    """
    Batches of samples to look at, each with a seed of its own, in whichever process.

    Attributes
    ----------
    checkpoint : Checkpoint
    refiner : Refiner or None
    sampler : CropSampler
    ways : tuple of bool
        Whether to show the networks the masks.
    shares : array, shape (B,)
        Of the sampler's faults.
    seeds : list of int
        B of them.

    """

    checkpoint: Any
    refiner: Any
    sampler: Any
    ways: tuple
    shares: np.ndarray
    seeds: list

    @classmethod
    def of(cls, checkpoint, refiner, sampler, easy, ways, seed):
        """Return SAMPLES samples, with a share from `easy` to all of the sampler's faults."""
        rng, count = np.random.default_rng(seed), SAMPLES // BATCH
        return cls(checkpoint, refiner, sampler, ways, rng.uniform(easy, 1, count),
                   rng.integers(2 ** 62, size=count).tolist())

    @functools.cached_property
    def _predictor(self):
        return KeypointPredictor(self.checkpoint)

    def look(self, index):
        """
        Return a CropBatch and for each way a list of what _look yields.

        Parameters
        ----------
        index : int
            Of the batch.

        """
        config = self.sampler.config
        self.sampler.config = config.eased(self.shares[index])
        self.sampler.seed(self.seeds[index])
        batch = self.sampler.batch(BATCH)
        self.sampler.config = config
        pictures = list(_pictures(self._predictor, batch))
        sightings = [self.refiner and sight(self.checkpoint, image, [instance], camera)
                     for image, instance, camera in pictures]
        return batch, {way: list(_look(self._predictor, self.refiner, batch, pictures, sightings,
                                       way)) for way in self.ways}

    def each(self, examine, doing):
        """
        Yield examine(self, index) for each batch, in their order, by as many processes as pay.

        Parameters
        ----------
        examine : callable
            A function of a module, which other processes find there.
        doing : str
            What people who wait are told.

        """
        count = len(self.seeds)
        processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, count // LEAST_BATCHES)
        bar = tqdm(total=count, desc=f'{self.checkpoint.model.name}: {doing}', unit='batch',
                   mininterval=1.0)
        with bar:
            if processes < 2:
                for index in range(count):
                    yield examine(self, index)
                    bar.update()
                return
            # Not forked: of threads that run networks nothing is left in a forked process. And
            # not by torch's own way, through shared memory, of which containers have little.
            pool = ProcessPoolExecutor(
                processes, multiprocessing.get_context('spawn'), _begin,
                (pickle.dumps((self, examine)),))
            try:
                with _main_hidden():
                    examined = pool.map(_examine_here, range(count))
                for found in examined:
                    yield found
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _main_hidden():
    """Keep processes that are started from running anew the script that runs in this one."""
    main = sys.modules['__main__'].__dict__
    hidden: dict = {name: main[name] for name in ('__file__', '__spec__') if name in main}
    main.pop('__file__', None)
    main['__spec__'] = None
    try:
        yield
    finally:
        main.update(hidden)


# What a process of a pool is there for.
_task: dict = {}


def _begin(pickled):
    """Make a process ready for _examine_here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is for the process that waits
    torch.set_num_threads(1)
    keep_freed_memory()
    _task['batches'], _task['examine'] = pickle.loads(pickled)


def _examine_here(index):
    """Return what becomes of a batch in a process of a pool."""
    return _task['examine'](_task['batches'], index)


@dataclass(frozen=True, eq=False)
class _Examined:
    """
    What became of a batch.

    Attributes
    ----------
    outcomes : dict
        For each way to look a list of _Outcome or None.
    point_error : list of arrays, shape (K,)
        With the mask, pixels of the crop.
    visible : list of float
    pictures : list
        See Findings; of the first batches.

    """

    outcomes: dict
    point_error: list
    visible: list
    pictures: list


def _examine(batches, index):
    """Return the _Examined of a batch."""
    batch, looks = batches.look(index)
    judge = _Judge(batches.checkpoint.model, batches.checkpoint.network_input, index)
    outcomes = {}
    for way, seen in looks.items():
        outcomes[way] = [
            judge.outcome(one, Pose(R_m2c, t_m2c)) if _is_usable(one, batches.refiner, way)
            else None for (one, _, _), R_m2c, t_m2c in zip(
                seen, batch.R_m2c.double().numpy(), batch.t_m2c.double().numpy())]
    point_error, pictures = [], []
    for one, truth, shown in looks[True]:
        error = np.linalg.norm(one.pixels - truth, axis=-1)  # (L, K)
        best = int(error.mean(1).argmin())
        point_error.append(error[best])
        if index * BATCH + len(pictures) < PICTURES:
            pictures.append((shown, truth[best], one.pixels, one.confidence))
    return _Examined(outcomes, point_error, batch.visible.tolist(), pictures)


def _fitted_distances(batches):
    """
    Return what brings poses as the keypoints have them to their distances.

    Keypoints in doubt lie nearer together than any pose has them, so that hidden things seem too
    far away, by a tenth and more: more than what mends poses makes good.

    Returns
    -------
    distances : dict
        For each way to look, what distance_factor takes; empty where too few poses were found.

    """
    features, too_far = ({way: [] for way in batches.ways} for _ in range(2))
    for found in batches.each(_too_far, 'measuring distances'):
        for way, pairs in found.items():
            for seen, error in pairs:
                features[way].append(seen)
                too_far[way].append(error)
    return {way: fit_distance(features[way], too_far[way])
            if len(too_far[way]) >= LEAST_FITTED else {} for way in batches.ways}


def _too_far(batches, index):
    """Return for each way to look features and log of the error of distance of poses found."""
    batch, looks = batches.look(index)
    true = batch.t_m2c.double().norm(dim=1).tolist()
    return {way: [(one.features(batches.checkpoint.model.diameter),
                   float(np.log(np.linalg.norm(one.result.pose.t_m2c) / distance)))
                  for (one, _, _), distance in zip(seen, true) if one.result.pose is not None]
            for way, seen in looks.items()}


def _pictures(predictor, batch):
    """Yield what the pipeline is given of each picture of a batch: image, Instance, camera."""
    masks, rgb = _bytes(batch.mask[:, 0]), None
    if batch.rgb is not None:
        rgb = _bytes(batch.rgb.permute(0, 2, 3, 1))
    side = masks.shape[-1]
    half = predictor.size / predictor.checkpoint.margin / 2
    box = (side - 1) / 2 + half * np.array([-1, -1, 1, 1])
    for index in range(len(masks)):
        # All that is more than nothing, 0.8 pixels of the crop wider than at half: masks of
        # HELD_BACK were chosen so, and at half nothing is better (docs/experiments.md).
        yield (None if rgb is None else rgb[index],
               Instance(predictor.checkpoint.model.name, 1.0, box, masks[index] > 0, 1),
               PinholeCamera(batch.K[index].double().numpy(), side, side))


def _look(predictor, refiner, batch, pictures, sightings, use_masks):
    """
    Yield what the pipeline sees in each picture of a batch.

    Yields
    ------
    seen : Evidence
    truth : array, shape (L, K, 2)
        True keypoints in the crop.
    shown : array of uint8, shape (size, size, 3)
        The crop.

    """
    size = predictor.size
    for index, (image, instance, camera) in enumerate(pictures):
        side = camera.width
        edge = (side - size) // 2
        seen, = gather(predictor, image, [instance], camera, refiner, use_masks, sightings[index])
        # As the crop at the box has it, which looks straight ahead, whichever it was seen in.
        first = CropCamera.look_at(camera, instance.box, size, predictor.checkpoint.margin)
        seen = replace(seen, pixels=seen.crop.transfer(seen.pixels, first),
                       result=seen.result.turned(seen.crop.R_cam2crop.T))
        truth = batch.keypoints[index].numpy() - (side - size) / 2
        picture = (_bytes(batch.mask[index, 0])[..., None].repeat(3, 2) if image is None
                   else image)
        yield seen, truth, picture[edge:edge + size, edge:edge + size]


def _bytes(images):
    """Return images 0..1 as an array of uint8."""
    return (images * 255).round().byte().numpy()


def _nearest(pose, truth, turns, points):
    """Return, of the truths that look alike, the one with the smallest ADD."""
    return min((truth.compose(turn) for turn in turns),
               key=lambda candidate: add(pose, candidate, points))


def _print(checkpoint):
    """Return words about what is printed on an object."""
    sighted = checkpoint.calibration.get('sighted')
    if checkpoint.landmarks is None or sighted is None:
        return 'none: too little is printed on it'
    chances = [f'{100 * sight_chance(sighted, np.array([0, 0, side, side])):.0f} %'
               for side in (50, 100, 200)]
    return (f'{len(checkpoint.landmarks.points)}; seen on {", ".join(chances)} of things of '
            '50, 100, 200 px')


def write_report(path, checkpoint, findings):
    """Write NAME.md, the card, and NAME.jpg, curves and sample pictures, beside the weights."""
    stem = path.with_suffix('')
    model, network, about = checkpoint.model, checkpoint.config, checkpoint.training
    _draw(stem.with_name(stem.name + '.jpg'), checkpoint, findings)
    scores, landmarks = findings.scores, checkpoint.landmarks

    def number(key, pattern):
        return 'none' if scores[key] is None else pattern.format(scores[key])

    ways = '' if landmarks is None else (
        f'; {scores["by_landmarks"]:.1f} % of the poses began with its landmarks')
    ways += ('' if scores['without_mask'] is None else
             f'; {scores["without_mask"]:.1f} % of the poses are those found without the mask')
    stem.with_name(stem.name + '.md').write_text(f"""# {stem.name}

Keypoint model of the object `{model.name}` for input `{checkpoint.network_input}`
({", ".join(f"`{name}`" for name in about["channels"])}), for `pose_estimator`.

| | |
|---|---|
| Training data | virtual images of the mesh `{model.mesh_path.split("/")[-1]}` alone |
| Command | `{about["command"]}` |
| Date, machine | {about["date"]}; {about["processor"]} |
| Time, samples | {about["minutes"]} min, {about["samples"]} crops of {about["views"]} views |
| Started from | {_origin(about["start"])} |
| Network | {network.modules} hourglasses, {network.width} channels, \
{network.input_size} px in, {network.heatmap_size} px heatmaps, \
{network.keypoints} keypoints, loss {checkpoint.loss} |
| Landmarks | {_print(checkpoint)} |

On {scores["samples"]} held-back virtual crops (other views, backgrounds and seeds, occluded and
with masks somewhat worse than in training){ways}:

| ADD below 0.1 d | median keypoint error | median rotation | median translation | no pose | \
calibration error of the score |
|---|---|---|---|---|---|
| {scores["add_0.1d"]:.1f} % | {scores["keypoint_error_px"]:.2f} px of \
{network.input_size} | {number("rotation_deg", "{:.1f} deg")} | \
{number("translation_of_diameter", "{:.3f} d")} | {scores["no_pose"]:.1f} % | \
{scores["calibration_error"]:.3f} |

95 % of these poses with a score of {checkpoint.calibration["sure_score"]:.2f} or more are right by
that measure. Of the right poses that had no say in the covariance's scale,
{number("covered_95", "{:.0f} %")} lie in the ellipsoid that should hold 95 %, with a mean of the
normalised squared error of {number("mean_nees", "{:.1f}")} (6 is true). Where errors were larger
than that, the shipped scale is larger by as much.

![Curves and samples: truth green, found red]({stem.name}.jpg)
""")


def _origin(start):
    """Say where the first weights came from, back to random ones."""
    if not start:
        return 'random weights'
    if 'mean' in start:
        names = ', '.join(one['object'] for one in start['mean'])
        return (f'the mean of {names} ({start["mean"][0]["input"]}), whose cards tell of their '
                'training')
    return (f'{start["object"]} ({start["input"]}), {start["samples"]} samples of '
            f'`{start["command"]}`, from {_origin(start["start"])}')


def _draw(path, checkpoint, findings):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure = pyplot.figure(figsize=(12, 7.2), dpi=80)
    history = checkpoint.training.get('history')
    figure.suptitle(f'{checkpoint.model.name}, input {checkpoint.network_input}: held-back '
                    'virtual crops, truth green, found red (pale: unsure)')
    curves, crops = figure.subfigures(2, 1, height_ratios=(1, 1.9))
    curve, share = curves.subplots(1, 2, gridspec_kw={
        'left': 0.07, 'right': 0.98, 'bottom': 0.25, 'top': 0.82})
    curve.plot(*np.array(history).T if history else ([], []))
    curve.set(xlabel='samples', ylabel='loss')
    edges = np.linspace(0.2, 1.0, 9)
    place = np.clip(np.digitize(findings.visible, edges), 1, 8)
    rows = [(edges[index - 1] + 0.05, findings.is_right[place == index].mean() * 100)
            for index in range(1, 9) if (place == index).any()]
    share.bar(*np.array(rows).T, width=0.08)
    share.set(xlabel='visible share', ylabel='% within ADD 0.1 d', ylim=(0, 100))
    axes = crops.subplots(3, 8, gridspec_kw={'left': 0.01, 'right': 0.99, 'bottom': 0.01,
                                             'top': 1, 'wspace': 0.03, 'hspace': 0.03})
    for axis, (crop, truth, found, confidence) in zip(axes.ravel(), findings.pictures):
        axis.imshow(crop)
        axis.scatter(*truth.T, s=6, c='lime', linewidths=0)
        axis.scatter(*found.T, s=6, c='red', alpha=np.clip(confidence, 0.1, 1), linewidths=0)
        axis.set(xlim=(0, crop.shape[1]), ylim=(crop.shape[0], 0))
        axis.axis('off')
    figure.savefig(path, pil_kwargs={'quality': 80})
    pyplot.close(figure)
