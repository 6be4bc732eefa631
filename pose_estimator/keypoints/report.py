"""What a trained network is worth on held-back virtual data: figures, pictures, card."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from .predictor import KeypointPredictor
from ..camera import CropCamera, PinholeCamera
from ..geometry import Pose
from ..instance import Instance
from ..pipeline import gather
from ..pose_error import add, adi
from ..refinement.refiner import Refiner
from ..scoring import (
    calibration_error, DISTANCE_UNSURE, FEATURES, fit_calibration, fit_distance, RIGHT, score,
    sure_score)

# With half as many, what can be published (at95) still changes by a tenth to a third from one draw
# to another (docs/experiments.md).
SAMPLES = 1280
# Nothing is fitted to fewer poses.
LEAST_FITTED = 20
# True distances for each sample, as unsure as the real ones, under which poses are right or not.
DISTANCES = 8
# The virtual pictures are wider than a crop by this, for the pipeline to cut its crops from.
FIELD = 2


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
    pictures : list of (crop (S, S, 3) uint8 RGB, truth (K, 2), found (K, 2), confidence (K,))

    """

    scores: dict
    calibration: dict
    visible: np.ndarray
    is_right: np.ndarray
    pictures: list


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
    model = checkpoint.model
    distance: dict = {}
    if fit:
        distance = _fitted_distances(replace(checkpoint, calibration={}), sampler, easy)
        checkpoint = replace(checkpoint, calibration={'distance': distance})
    predictor = KeypointPredictor(checkpoint)
    turns = model.symmetries_for(checkpoint.network_input).transforms(36)
    away = adi if len(turns) > 1 else add
    point_error, features, found, place = [], [], [], []
    visible, pictures = [], []
    for batch in _batches(sampler, easy, 0):
        for index, (seen, truth, shown) in enumerate(_look(predictor, refiner, batch)):
            error = np.linalg.norm(seen.pixels - truth, axis=-1)  # (L, K)
            best = int(error.mean(1).argmin())
            point_error.append(error[best])
            if seen.result.pose is not None:
                features.append(seen.features(model.diameter))
                place.append(len(visible))
                found.append((seen.result, Pose(batch.R_m2c[index].double().numpy(),
                                                batch.t_m2c[index].double().numpy())))
            visible.append(float(batch.visible[index]))
            if len(pictures) < 24:
                pictures.append((shown, truth[best], seen.pixels, seen.confidence))
    outcomes, shift, angle, nees = [], [], [], []
    rng = np.random.default_rng(0)
    is_right = np.zeros(len(visible), bool)
    for where, (result, true_pose) in zip(place, found):
        pose = result.pose
        nearest = _nearest(pose, true_pose, turns, model.points)
        is_right[where] = away(pose, true_pose, model.points) < RIGHT * model.diameter
        # The score must also hold where nothing is as exact as here.
        apart = [Pose(true_pose.R_m2c, true_pose.t_m2c * factor)
                 for factor in np.exp(rng.normal(0, DISTANCE_UNSURE, DISTANCES))]
        outcomes.append([away(pose, one, model.points) < RIGHT * model.diameter
                         for one in apart])
        turn = Rotation.from_matrix(pose.R_m2c @ nearest.R_m2c.T).as_rotvec()
        move = pose.t_m2c - nearest.t_m2c
        shift.append(np.linalg.norm(move) / model.diameter)
        angle.append(np.degrees(np.linalg.norm(turn)))
        # By ADD-S a pose may count as right that is none of those that look alike.
        if add(pose, nearest, model.points) < RIGHT * model.diameter:
            error6 = np.concatenate([move, turn])
            nees.append(error6 @ np.linalg.pinv(result.covariance) @ error6)
    half, fitted = (len(features) // 2, len(nees) // 2) if fit else (0, 0)
    right = np.array(outcomes, float).reshape(-1, DISTANCES)
    share = right.mean(1)
    calibration = fitted_to_half = checkpoint.calibration
    if fit and len(features) >= LEAST_FITTED:
        fitted_to_half = fit_calibration(features[:half], share[:half], nees[:fitted])
        # Once it is known what half of them is good for, all have a say in the score.
        calibration = fit_calibration(features, share, nees[:fitted])
        everything = np.array([score(one, calibration) for one in features])
        # Of the virtual poses as they are: with unsure distances, small things far away could
        # never be sure, however well they are seen.
        calibration['sure_score'] = sure_score(everything, is_right[place])
    elif fit:  # a network that finds nothing is never sure
        count = len(FEATURES)
        calibration = fitted_to_half = {
            'mean': [0.0] * count, 'scale': [1.0] * count, 'weights': [0.0] * count, 'bias': -5.0,
            'covariance_scale': 1.0, 'sure_score': 1.0}
    if fit:
        calibration.update(distance=distance, refiner=refiner.fingerprint if refiner else '')
    chance = np.array([score(one, fitted_to_half) for one in features[half:]])
    gap = calibration_error(chance, share[half:]) if len(chance) else np.nan
    left = np.array(nees[fitted:]) / calibration['covariance_scale']
    if fit and len(left):
        # Rather too wide than too narrow: of both halves, the one with the larger errors counts.
        calibration['covariance_scale'] *= max(1.0, float(left.mean()) / 6)
    scores = {
        'samples': len(is_right), 'add_0.1d': 100 * float(np.mean(is_right)),
        'keypoint_error_px': float(np.median(np.concatenate(point_error))),
        'rotation_deg': float(np.median(angle)) if angle else None,
        'translation_of_diameter': float(np.median(shift)) if shift else None,
        'no_pose': 100 * (1 - len(features) / len(is_right)),
        'calibration_error': float(gap),
        'covered_95': 100 * float(np.mean(left <= chi2.ppf(0.95, 6))) if len(left) else None,
        'mean_nees': float(left.mean()) if len(left) else None}
    return Findings(scores, calibration, np.array(visible), is_right, pictures)


def _fitted_distances(checkpoint, sampler, easy):
    """
    Return what brings poses as the keypoints have them to their distances.

    Keypoints in doubt lie nearer together than any pose has them, so that hidden things seem too
    far away, by a tenth and more: more than what mends poses makes good.

    Returns
    -------
    calibration : dict
        Of distance_factor; empty where too few poses were found.

    """
    predictor = KeypointPredictor(checkpoint)
    features, too_far = [], []
    for batch in _batches(sampler, easy, 1):
        for index, (seen, _, _) in enumerate(_look(predictor, None, batch)):
            if seen.result.pose is None:
                continue
            features.append(seen.features(checkpoint.model.diameter))
            distances = np.linalg.norm([seen.result.pose.t_m2c,
                                        batch.t_m2c[index].double().numpy()], axis=1)
            too_far.append(np.log(distances[0] / distances[1]))
    return fit_distance(features, too_far) if len(features) >= LEAST_FITTED else {}


def _batches(sampler, easy, seed):
    """Yield SAMPLES samples in batches, from a share `easy` of the sampler's faults to all."""
    config = sampler.config
    for share in np.random.default_rng(seed).uniform(easy, 1, SAMPLES // 16):
        sampler.config = config.eased(share)
        yield sampler.batch(16)
    sampler.config = config


def _look(predictor, refiner, batch):
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
    masks, rgb = _bytes(batch.mask[:, 0]), None
    if batch.rgb is not None:
        rgb = _bytes(batch.rgb.permute(0, 2, 3, 1))
    side, size = masks.shape[-1], predictor.size
    half = size / predictor.checkpoint.margin / 2
    box = (side - 1) / 2 + half * np.array([-1, -1, 1, 1])
    edge = (side - size) // 2
    for index in range(len(masks)):
        # All that is more than nothing, 0.8 pixels of the crop wider than at half: masks of
        # HELD_BACK were chosen so, and at half nothing is better (docs/experiments.md).
        instance = Instance(predictor.checkpoint.model.name, 1.0, box, masks[index] > 0, 1)
        camera = PinholeCamera(batch.K[index].double().numpy(), side, side)
        seen, = gather(predictor, None if rgb is None else rgb[index], [instance], camera,
                       refiner)
        # As the crop at the box has it, which looks straight ahead, whichever it was seen in.
        first = CropCamera.look_at(camera, box, size, predictor.checkpoint.margin)
        seen = replace(seen, pixels=seen.crop.transfer(seen.pixels, first),
                       result=seen.result.turned(seen.crop.R_cam2crop.T))
        truth = batch.keypoints[index].numpy() - (side - size) / 2
        picture = masks[index][..., None].repeat(3, 2) if rgb is None else rgb[index]
        yield seen, truth, picture[edge:edge + size, edge:edge + size]


def _bytes(images):
    """Return images 0..1 as an array of uint8."""
    return (images * 255).round().byte().numpy()


def _nearest(pose, truth, turns, points):
    """Return, of the truths that look alike, the one with the smallest ADD."""
    return min((truth.compose(turn) for turn in turns),
               key=lambda candidate: add(pose, candidate, points))


def write_report(path, checkpoint, findings):
    """Write NAME.md, the card, and NAME.jpg, curves and sample pictures, beside the weights."""
    stem = path.with_suffix('')
    model, network, about = checkpoint.model, checkpoint.config, checkpoint.training
    _draw(stem.with_name(stem.name + '.jpg'), checkpoint, findings)
    scores = findings.scores

    def number(key, pattern):
        return 'none' if scores[key] is None else pattern.format(scores[key])

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

On {scores["samples"]} held-back virtual crops (other views, backgrounds and seeds, occluded and
with masks somewhat worse than in training):

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
normalised squared error of {number("mean_nees", "{:.1f}")} (6 is true). Where it is more than
6, the shipped scale is larger by as much.

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
