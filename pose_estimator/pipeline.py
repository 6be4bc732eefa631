"""Image and instances in, object poses out."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Optional

import numpy as np

from . import landmarks
from .belief import Belief, judge, most_believed_pose
from .camera import CropCamera, PinholeCamera
from .errors import InputError
from .geometry import Pose
from .instance import Instance, mask_box
from .keypoints.checkpoint import Checkpoint
from .keypoints.predictor import KeypointPredictor
from .pnp import PnPResult, propose, settle
from .refinement.refiner import FILE, NOT_REFINED, Refiner
from .scoring import (
    calibration_of, distance_factor, DISTANCE_UNSURE, pose_features, score, silhouette_agreement)
from .support import find_plane, Shape, stand, Thing

SUFFIX = {'rgb_mask': '.safetensors', 'mask': '.mask.safetensors'}
# Names of other weights in a directory of models.
RESERVED = ('segmenter', 'refiner')
# As sure as this or surer, 95 % of the virtual poses are right, or more: the cards of the shipped
# models say from which score on.
MIN_SCORE = 0.7
# A mask of fewer pixels says nothing about a pose.
MIN_MASK_PIXELS = 30
# Lens, mesh and mask shift all pixels of an object alike, of which their scatter tells nothing:
# across the ray by this angle, radians (a pixel of most cameras; docs/accuracy.md).
SHIFTED_ALIKE = np.radians(0.1)
# About each axis things are turned by this, radians, that no virtual crop tells of.
TURNED_ALIKE = np.radians(1.0)
# Each crop is looked at several times: rolled by degrees and zoomed. The mean of the heatmaps
# is better than any of them, and where they disagree, doubt is due (docs/experiments.md). Cameras
# are mostly upright, so the rolls are small. The first is the crop as it is.
LOOKS = ((0, 1.0), (-25, 1.08), (25, 0.93))
# Where the box half way to that of the whole of the pose found has an edge elsewhere, by this
# share of its longer side, it is looked at once more: what hides a part of a thing hides from its
# box how far the thing reaches. Poses this many times as large as the box, or as small, are of no
# use.
LOOK_AGAIN, BELIEVED = 0.05, 2.5
# A pose that is less sure than this is looked for once more by networks that do not see the mask,
# which may be wrong. What is found so counts if it is surer by so much, and explains this share of
# the mask: it could be another one of its kind beside. Below HOPELESS it is something else.
HOPELESS, SURE_ENOUGH, SURER, EXPLAINED = 0.005, 0.3, 0.2, 0.5


@dataclass(frozen=True, eq=False)
class ObjectPose:
    """
    What is known of one instance.

    Attributes
    ----------
    name : str
        Of the object model.
    instance : Instance
    pose : Pose or None
        Model to camera, metres; None when there is none to be trusted.
    score : float
        The chance that the pose is right, 0..1, as calibrated on virtual data: that its ADD, or
        ADD-S where the object has symmetries, is below a tenth of the diameter.
    covariance : array, shape (6, 6), or None
        Of x, y, z and rotations about the camera's x, y, z; m^2, rad^2. Never less than
        SHIFTED_ALIKE, DISTANCE_UNSURE and TURNED_ALIKE have it.
    keypoints : array, shape (K, 2)
        x, y in pixels of the image, as the network sees them.
    confidence : array, shape (K,)
    inliers : array of bool, shape (K,)
        Of the pose that the keypoints gave, before it was mended.
    reprojection_error : float
        Root mean square over the inliers, pixels of the image, of that pose too.
    reason : str
        Why there is no pose, else ''.
    landmarks : int
        How many spots of the object's print agree on the pose; 0 where it is not of them.

    """

    name: str
    instance: Instance
    pose: Optional[Pose]
    score: float
    covariance: Optional[np.ndarray]
    keypoints: np.ndarray
    confidence: np.ndarray
    inliers: np.ndarray
    reprojection_error: float
    reason: str = ''
    landmarks: int = 0


@dataclass(frozen=True, eq=False)
class Evidence:
    """
    What was seen of one instance and what the solver made of it.

    Attributes
    ----------
    crop : CropCamera
    mask : array of uint8, shape (S, S)
        The instance's mask in the crop.
    pixels : array, shape (K, 2)
        Keypoints in the crop, of all looks together.
    confidence : array, shape (K,)
    disagreement : array, shape (K,)
        Standard deviation over the looks, pixels of the crop.
    likelihood : float
        Mean log of the network's belief at the pose's keypoints.
    agreement : array, shape (2,)
        Of the pose's silhouette and the mask; see scoring.silhouette_agreement.
    refinement : array, shape (4,)
        What was seen when the pose was mended; see Refined.features.
    result : PnPResult
        In the crop camera's frame.
    sighting : Sighting or None
        Whose pose it is; None where it is of the keypoints.

    """

    crop: CropCamera
    mask: np.ndarray
    pixels: np.ndarray
    confidence: np.ndarray
    disagreement: np.ndarray
    likelihood: float
    agreement: np.ndarray
    refinement: np.ndarray
    result: PnPResult
    sighting: Optional[landmarks.Sighting] = None

    @property
    def landmarks(self):
        """How many of them agree on the pose."""
        return 0 if self.sighting is None else self.sighting.inliers

    def features(self, diameter):
        """Return what the score is made of; see scoring.py."""
        return pose_features(self.result, self.confidence, self.disagreement, self.likelihood,
                             self.agreement, self.refinement, self.landmarks, self.crop.size,
                             diameter)


def sight(checkpoint, image, instances, camera):
    """
    Find instances of one object by what is printed on it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of the object.
    image, instances, camera
        As for gather.

    Returns
    -------
    list of lists of Sighting
        For each instance the poses that landmarks agree on, in the camera's frame.

    """
    if checkpoint.landmarks is None or image is None:
        return [[] for _ in instances]
    sightings = []
    for instance in instances:
        crop = landmarks.look_at(camera, instance.box)
        mask = crop.crop(instance.mask.view(np.uint8) * np.uint8(255))

        def is_it(pose, crop=crop, mask=mask):
            points = pose.turned(crop.R_cam2crop).transform(checkpoint.model.points)
            return silhouette_agreement(mask, crop.project(points))[0] >= EXPLAINED

        sightings.append(checkpoint.landmarks.find(image, crop, checkpoint.model.diameter, is_it))
    return sightings


def gather(predictor, image, instances, camera, refiner=None, use_masks=True, sightings=None):
    """
    Find the keypoints of instances of one object and solve for their poses.

    Parameters
    ----------
    predictor : KeypointPredictor
        Of the object.
    image : array of uint8, shape (height, width, 3), or None
        RGB; None for a network of masks alone.
    instances : list of Instance
        At least one.
    camera : PinholeCamera
        The one that took the image.
    refiner : Refiner or None
        What mends the poses; None: they stay as the keypoints have them.
    use_masks : bool
        Show the networks the masks; else these are only compared with the poses found.
    sightings : list of lists of Sighting
        What `sight` found, to be used if there is a refiner.

    Returns
    -------
    list of Evidence

    """
    work = _gathering(predictor, image, instances, camera, refiner is not None, use_masks,
                      sightings)
    return _side_by_side([work], refiner, image, camera)[0]


def _side_by_side(works, refiner, image, camera):
    """
    Carry out work on several objects, whose poses are mended together: that takes less time.

    Parameters
    ----------
    works : list of generators
        Each yields surfaces, poses and masks for the refiner, as often as it likes, and is sent
        what that makes of the poses.
    refiner, image, camera
        As for gather.

    Returns
    -------
    list
        What the generators return.

    """
    results: list = [None] * len(works)
    answers: dict = dict.fromkeys(range(len(works)))
    while answers:
        asked = {}
        for index, answer in answers.items():
            try:
                asked[index] = works[index].send(answer)
            except StopIteration as end:
                results[index] = end.value
        surfaces, poses, masks = ([one for each in asked.values() for one in each[part]]
                                  for part in range(3))
        mended = iter(refiner.refine(surfaces, poses, image, masks, camera) if poses else ())
        answers = {index: list(islice(mended, len(own)))
                   for index, (_, own, _) in asked.items()}
    return results


def _gathering(predictor, image, instances, camera, is_mended, use_masks, sightings=None):
    """Return what gather does, by a generator for _side_by_side."""
    if sightings is None or not is_mended:
        sightings = [[] for _ in instances]
    evidence = yield from _look(predictor, image, instances, camera, is_mended, use_masks,
                                sightings)
    if not is_mended:
        return evidence  # not exact enough to say where else to look
    again = {}
    for index, (one, instance) in enumerate(zip(evidence, instances)):
        box = _better_box(one, instance.box, predictor.checkpoint.model)
        if box is not None:
            again[index] = replace(instance, box=box)
    if again:
        second = yield from _look(predictor, image, list(again.values()), camera, is_mended,
                                  use_masks, [sightings[index] for index in again])
        for index, one in zip(again, second):
            if one.result.pose is not None:
                evidence[index] = one
    return evidence


def _look(predictor, image, instances, camera, is_mended, use_masks, sightings):
    """Return Evidence of instances, looked at once, in their boxes; see _gathering."""
    crops = [CropCamera.look_at(camera, instance.box, predictor.size,
                                predictor.checkpoint.margin) for instance in instances]
    looks = [crop.turned(*look) for crop in crops for look in LOOKS]
    full = [instance.mask.view(np.uint8) * np.uint8(255) for instance in instances]
    masks = np.stack([look.crop(mask) for look, mask in
                      zip(looks, [mask for mask in full for _ in LOOKS])])
    rgb = None if image is None else np.stack([look.crop(image) for look in looks])
    found = predictor.predict(rgb, masks if use_masks else np.zeros_like(masks))
    points = predictor.checkpoint.model.keypoints
    evidence, beliefs = [], []
    for index, crop in enumerate(crops):
        own = slice(index * len(LOOKS), (index + 1) * len(LOOKS))
        seen = masks[own.start]
        pixels = np.stack([look.transfer(one, crop)
                           for look, one in zip(looks[own], found.pixels[own])])  # (L, K, 2)
        weight = found.confidence[own] + 1e-6
        weight = (weight / weight.sum(0))[..., None]
        mean = (pixels * weight).sum(0)
        disagreement = np.sqrt((((pixels - mean) ** 2) * weight).sum((0, 2)) / 2)
        confidence = found.confidence[own].mean(0)
        # The mean of all looks and each of them alone may find the pose.
        proposals = [propose(points, one, sure, crop.K, crop.size)
                     for one, sure in zip([mean, *pixels], [confidence, *found.confidence[own]])]
        poses = [pose for pose, _ in proposals if pose is not None]
        beliefs.append(Belief.of_looks(found.heatmaps[own], looks[own], crop))
        if not poses:
            result = PnPResult(None, None, np.zeros(len(points), bool), np.nan, proposals[0][1])
            evidence.append(Evidence(crop, seen, mean, confidence, disagreement, -np.inf,
                                     np.zeros(2), NOT_REFINED, result))
            continue
        pose, near, mass, likelihood = most_believed_pose(poses, beliefs[-1], points, crop.K)
        result = settle(pose, points, near, mass, crop.K, crop.size)
        evidence.append(Evidence(crop, seen, mean, confidence, disagreement, likelihood,
                                 np.zeros(2), NOT_REFINED, result))
    taught = calibration_of(predictor.checkpoint.calibration, use_masks).get('distance')
    evidence = [_brought_near(one, predictor.checkpoint.model.diameter, taught)
                for one in _compared(evidence, predictor.checkpoint)]
    evidence = [_sighted(one, belief, predictor.checkpoint.model, seen)
                for one, belief, seen in zip(evidence, beliefs, sightings)]
    if is_mended:
        evidence = yield from _mend(predictor.checkpoint.surface, evidence,
                                    [one.mask if use_masks else np.zeros_like(one.mask)
                                     for one in instances])
    return _compared([_aligned(one, predictor.checkpoint) for one in evidence],
                     predictor.checkpoint)


def _sighted(one, belief, model, sightings):
    """Return the evidence with the pose that landmarks agree on, if there is one."""
    best, most = one, 0.0
    for sighting in sightings:
        pose = sighting.pose.turned(one.crop.R_cam2crop)
        agreement = silhouette_agreement(one.mask, one.crop.project(pose.transform(model.points)))
        # A plane's twin is told by its outline, if at all; so is another one of its kind beside.
        worth = sighting.inliers * agreement.prod()
        if agreement[0] >= EXPLAINED and worth > most:
            result, likelihood = judge(pose, model.keypoints, belief, one.crop)
            best, most = replace(one, result=result, likelihood=likelihood, agreement=agreement,
                                 sighting=sighting), worth
    return best


def _aligned(one, checkpoint):
    """Return the evidence with a mended pose brought to where the print is, if that was seen."""
    if one.sighting is None or one.result.pose is None:
        return one
    turn = one.crop.R_cam2crop
    pose = checkpoint.landmarks.align(one.result.pose.turned(turn.T), one.sighting,
                                      checkpoint.model.diameter)
    if pose is None:
        return one
    return replace(one, result=replace(one.result, pose=pose.turned(turn)))


def _better_box(one, box, model):
    """
    Return where to look again, half way from a box to that of the whole of the pose found.

    None where that would be much the same, or nowhere near.

    """
    if one.result.pose is None:
        return None
    pixels = one.crop.to_image(one.crop.project(one.result.pose.transform(model.points)))
    whole = np.concatenate([pixels.min(0), pixels.max(0)])
    side, other = (max(each[2:] - each[:2]) for each in (box, whole))
    if not side / BELIEVED < other < side * BELIEVED:
        return None
    moved = (whole - box) / 2
    return box + moved if np.abs(moved).max() > LOOK_AGAIN * side else None


def _compared(evidence, checkpoint):
    """Return the evidence with the agreement of each pose's silhouette and its mask."""
    return [one if one.result.pose is None else
            replace(one, agreement=silhouette_agreement(one.mask, one.crop.project(
                one.result.pose.transform(checkpoint.model.points))))
            for one in evidence]


def _brought_near(one, diameter, taught):
    """Return evidence whose pose is as far away as virtual crops have taught that it is."""
    if one.result.pose is None or not taught:
        return one
    factor = distance_factor(one.features(diameter), taught)
    pose = one.result.pose
    return replace(one, result=replace(one.result, pose=Pose(pose.R_m2c, pose.t_m2c * factor)))


def _mend(surface, evidence, masks):
    """Return the evidence with the poses that the refiner makes of those found; a generator."""
    found = [index for index, one in enumerate(evidence) if one.result.pose is not None]
    poses = [evidence[index].result.pose.turned(evidence[index].crop.R_cam2crop.T)
             for index in found]
    mended = yield [surface] * len(found), poses, [masks[index] for index in found]
    evidence = list(evidence)
    for index, one in zip(found, mended):
        if one is None:
            continue
        before = evidence[index]
        result = replace(before.result, pose=one.pose, covariance=one.covariance)
        evidence[index] = replace(before, refinement=one.features(),
                                  result=result.turned(before.crop.R_cam2crop))
    return evidence


def find_models(directory, network_input='rgb_mask'):
    """
    Return the keypoint models of a directory for one network input.

    Returns
    -------
    paths : dict
        Object name -> path.

    """
    if network_input not in SUFFIX:
        raise InputError(f'input: expected one of {", ".join(SUFFIX)}, got {network_input!r}')
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f'{directory}: expected a directory of models, got no such directory')
    suffix = SUFFIX[network_input]
    names = {path.name[:-len(suffix)]: path for path in sorted(directory.glob('*' + suffix))}
    # cup.mask.safetensors ends on .safetensors too, and the segmenter lies beside.
    return {name: path for name, path in names.items()
            if '.' not in name and name not in RESERVED}


class PoseEstimator:
    """
    Estimates poses of segmented objects.

    Parameters
    ----------
    checkpoints : list of Checkpoint
        All of the same network input.
    device : str
        Of torch.
    min_score : float
        Poses below it are withheld: pose None, with the reason.
    refine : bool or Refiner
        Mend poses by drawings of the object, with the shipped Refiner or the given one. Without,
        which is for measuring what that brings, scores only tell the better pose of an object
        from the worse, and nothing is looked for without its mask.
    use_support : bool
        Mend poses by the plane that those of an image stand on; see support.py. Without is for
        measuring what that brings.

    """

    def __init__(self, checkpoints, device='cpu', min_score=MIN_SCORE, refine=True,
                 use_support=True):
        inputs = {checkpoint.network_input for checkpoint in checkpoints}
        if len(inputs) != 1:
            raise InputError('models: expected at least one, all of one input, got '
                             f'{sorted(inputs) or "none"}')
        if not 0 <= min_score <= 1:
            raise InputError(f'min_score: expected 0 to 1, got {min_score}')
        for one in checkpoints:
            if not one.is_calibrated:
                raise InputError(f'{one.model.name}: expected a score fitted by this version, '
                                 'got one of another: fit it with python -m pose_estimator '
                                 'calibrate MODEL.safetensors')
        self.network_input = inputs.pop()
        self.min_score = min_score
        self.without_model: Counter = Counter()
        self._predictors = {checkpoint.model.name: KeypointPredictor(checkpoint, device)
                            for checkpoint in checkpoints}
        self._shapes = {one.model.name: Shape.of(_surface_points(one), one.model.diameter)
                        for one in checkpoints} if use_support else {}
        self._refiner = None
        if refine and self.needs_image:
            self._refiner = refine if isinstance(refine, Refiner) else Refiner.shipped(device)
            _check_fitted(checkpoints, self._refiner.fingerprint)

    @classmethod
    def from_directory(cls, directory, network_input='rgb_mask', device='cpu',
                       min_score=MIN_SCORE, objects=None, refine=True, use_landmarks=True,
                       use_support=True):
        """
        Load the models of a directory.

        Parameters
        ----------
        directory : path
            Where the files NAME.safetensors lie.
        network_input : str
            'rgb_mask' or 'mask'.
        device : str
            Of torch.
        min_score : float
            Poses below it are withheld.
        objects : list of str
            Names; default: all that there are.
        refine : bool
            Mend poses by drawings of the object, with the directory's own refiner.safetensors
            where it has one, or else the shipped.
        use_landmarks : bool
            Look for what is printed on objects. Without is for measuring what that brings.
        use_support : bool
            Mend poses by what they stand on, likewise.

        """
        paths = find_models(directory, network_input)
        missing = sorted(set(objects or ()) - set(paths))
        if missing or not paths:
            raise InputError(f'{directory}: expected models of {", ".join(missing) or "objects"} '
                             f'for input {network_input}, got '
                             f'{", ".join(paths) or "none"}; train them: '
                             'python -m pose_estimator train OBJECT.yaml')
        if refine and network_input != 'mask':
            refine = Refiner.beside(directory, device)
        checkpoints = [Checkpoint.load(paths[name]) for name in objects or paths]
        if not use_landmarks:
            checkpoints = [replace(one, landmarks=None) for one in checkpoints]
        return cls(checkpoints, device, min_score, refine, use_support)

    @property
    def models(self):
        """Known objects: name -> ObjectModel."""
        return {name: predictor.checkpoint.model
                for name, predictor in self._predictors.items()}

    @property
    def sure_scores(self):
        """Scores above which 95 % of the poses on virtual data are right: name -> score."""
        return {name: predictor.checkpoint.calibration.get('sure_score', 1.0)
                for name, predictor in self._predictors.items()}

    @property
    def needs_image(self):
        """Whether the image itself is needed beside the masks."""
        return self.network_input != 'mask'

    def warm_up(self):
        """Take the first steps of networks, solver and drawings, which take far longer."""
        mask = np.zeros((120, 160), bool)
        mask[40:80, 60:100] = True
        camera = PinholeCamera(np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]]), 160, 120)
        image = np.zeros((120, 160, 3), np.uint8) if self.needs_image else None
        # Nothing may be found in a black image, so that solver and drawings come by themselves.
        self.estimate(image, [Instance(name, 1.0, mask_box(mask), mask, 1)
                              for name in self.models], camera)
        for predictor in self._predictors.values():
            model, surface = predictor.checkpoint.model, predictor.checkpoint.surface
            pose = Pose(np.eye(3), [0, 0, 3 * model.diameter] - model.center)
            propose(model.keypoints, camera.project(pose.transform(model.keypoints)),
                    np.ones(len(model.keypoints)), camera.K, camera.width)
            if self._refiner is not None:
                self._refiner.refine([surface], [pose], image, [mask], camera)

    def estimate(self, image, instances, camera):
        """
        Estimate the pose of each instance.

        Parameters
        ----------
        image : array of uint8, shape (height, width, 3), or None
            RGB; None where needs_image is false.
        instances : list of Instance
            Those with a label that has no model are counted in `without_model` and left out.
        camera : PinholeCamera
            The one that took the image.

        Returns
        -------
        list of ObjectPose
            In the order of the instances.

        """
        shape = (camera.height, camera.width)
        if self.needs_image and image is None:
            raise InputError('image: expected one, for input rgb_mask, got none')
        if image is not None and (image.shape != (*shape, 3) or image.dtype != np.uint8):
            raise InputError(f'image: expected uint8 RGB of shape {(*shape, 3)} as the camera '
                             f'says, got {image.dtype} of shape {image.shape}')
        groups: dict = {}
        for index, instance in enumerate(instances):
            if instance.mask.shape != shape:
                raise InputError(f'mask of {instance.label}: expected shape {shape} as the '
                                 f'camera says, got {instance.mask.shape}')
            if instance.label in self._predictors:
                groups.setdefault(instance.label, []).append(index)
            else:
                self.without_model[instance.label] += 1
        poses, chosen = {}, {}
        for name, indices in groups.items():
            for index in indices:
                reason = _unusable(instances[index])
                if reason:
                    poses[index] = self._no_pose(name, instances[index], reason)
                else:
                    chosen.setdefault(name, []).append(index)
        image = image if self.needs_image else None
        found = _side_by_side([self._estimate_group(name, image, [instances[one] for one in own],
                                                    camera) for name, own in chosen.items()],
                              self._refiner, image, camera)
        for own, each in zip(chosen.values(), found):
            poses.update(zip(own, each))
        found = [poses[index] for index in sorted(poses)]
        if self._shapes:
            found = self._stood(found, image, camera)
        return [self._withheld(one) for one in found]

    def _stood(self, found, image, camera):
        """Return ObjectPoses mended by what they stand on."""
        placed = [index for index, one in enumerate(found)
                  if one.pose is not None and np.isfinite(one.covariance).all()]
        things = [self._thing(found[index]) for index in placed]
        plane = find_plane(things)
        if plane is None:
            return found
        # What is printed on a thing tells more than what it stands on.
        moved = {index: standing for index, standing in zip(placed, stand(things, plane))
                 if standing is not None and standing.is_on_plane and not found[index].landmarks}
        if moved and self._refiner is not None:
            # Mended from there as before, but once, they are brought to the plane anew.
            seen = self._mended_once(found, {index: standing.pose for index, standing
                                             in moved.items()}, image, camera)
            things = [self._thing(seen[index]) for index in placed]
            moved.update({index: standing for index, standing in zip(placed, stand(things, plane))
                          if seen[index] is not found[index] and standing is not None
                          and standing.is_on_plane})
        return [one if index not in moved else replace(
            one, pose=moved[index].pose, covariance=moved[index].covariance)
            for index, one in enumerate(found)]

    def _mended_once(self, found, poses, image, camera):
        """Return ObjectPoses with some, {number: Pose}, mended from other poses, where it can."""
        surfaces = [self._predictors[found[index].name].checkpoint.surface for index in poses]
        masks = [found[index].instance.mask for index in poses]
        assert self._refiner is not None
        mended = self._refiner.refine(surfaces, list(poses.values()), image, masks, camera,
                                      rounds=1)
        seen = list(found)
        for index, one in zip(poses, mended):
            if one is not None:
                calibration = self._predictors[found[index].name].checkpoint.calibration
                seen[index] = replace(seen[index], pose=one.pose, covariance=_covariance(
                    one.covariance, one.pose.t_m2c, calibration))
        return seen

    def _thing(self, one):
        """Return what an ObjectPose with a pose is for support.py."""
        return Thing(self._shapes[one.name], one.pose, one.covariance, one.score,
                     one.instance.box, one.instance.mask)

    def _withheld(self, one):
        """Return an ObjectPose without its pose, if its score is too low."""
        if one.pose is None or one.score >= self.min_score:
            return one
        return replace(one, pose=None,
                       reason=f'score {one.score:.2f} is below {self.min_score:.2f}')

    def _estimate_group(self, name, image, instances, camera):
        """Return the ObjectPoses of instances of one object; for _side_by_side."""
        if self._refiner is None:
            return (yield from self._find(name, image, instances, camera))
        sightings = sight(self._predictors[name].checkpoint, image, instances, camera)
        found = yield from self._find(name, image, instances, camera, sightings)
        unsure = [index for index, one in enumerate(found) if is_in_doubt(one.score)]
        if not unsure:
            return found
        blind = yield from self._find(name, image, [instances[index] for index in unsure], camera,
                                      [sightings[index] for index in unsure], use_masks=False)
        for index, one in zip(unsure, blind):
            if is_surer(found[index].score, one.score):
                found[index] = one
        return found

    def _find(self, name, image, instances, camera, sightings=None, use_masks=True):
        """Return the ObjectPoses of instances of one object; see _gathering."""
        evidence = yield from _gathering(self._predictors[name], image, instances, camera,
                                         self._refiner is not None, use_masks, sightings)
        return [self._judge(name, instance, one, use_masks)
                for instance, one in zip(instances, evidence)]

    def _judge(self, name, instance, evidence, use_masks):
        """Return the ObjectPose of one instance, with its score, in the camera's frame."""
        checkpoint = self._predictors[name].checkpoint
        calibration = calibration_of(checkpoint.calibration, use_masks)
        crop, result, confidence = evidence.crop, evidence.result, evidence.confidence
        keypoints = crop.to_image(evidence.pixels)
        if result.pose is None:
            return ObjectPose(name, instance, None, 0.0, None, keypoints, confidence,
                              result.inliers, np.nan, result.reason)
        features = evidence.features(checkpoint.model.diameter)
        chance = score(features, calibration)
        if self._refiner is not None and evidence.refinement is NOT_REFINED:
            # Score and covariance were fitted to mended poses, and this one is odd besides.
            return ObjectPose(name, instance, None, 0.0, None, keypoints, confidence,
                              result.inliers, np.nan, 'the pose cannot be compared with the image')
        if not use_masks and evidence.agreement[0] < EXPLAINED:
            return ObjectPose(name, instance, None, 0.0, None, keypoints, confidence,
                              result.inliers, np.nan, 'the pose is not where the mask is')
        # From the crop camera's frame to the real one's.
        result = result.turned(crop.R_cam2crop.T)
        covariance = _covariance(result.covariance, result.pose.t_m2c, calibration)
        # One pixel of the crop is this many of the image.
        zoom = np.sqrt(crop.camera.K[0, 0] * crop.camera.K[1, 1]) / crop.K[0, 0]
        return ObjectPose(name, instance, result.pose, chance, covariance, keypoints, confidence,
                          result.inliers, result.reprojection_error * zoom,
                          landmarks=evidence.landmarks)

    def _no_pose(self, name, instance, reason):
        count = len(self.models[name].keypoints)
        return ObjectPose(name, instance, None, 0.0, None, np.full((count, 2), np.nan),
                          np.zeros(count), np.zeros(count, bool), np.nan, reason)


def _surface_points(checkpoint):
    """Return points (N, 3) all over an object, as many as there are."""
    surface = checkpoint.surface
    return checkpoint.model.points if surface is None else surface.points


def _covariance(covariance, origin, calibration):
    """Return the covariance (6, 6) of a pose at an origin, as ObjectPose has it."""
    covariance = covariance * calibration.get('covariance_scale', 1.0)
    covariance[:3, :3] += SHIFTED_ALIKE ** 2 * (origin @ origin * np.eye(3)
                                                - np.outer(origin, origin))
    covariance[:3, :3] += DISTANCE_UNSURE ** 2 * np.outer(origin, origin)
    covariance[3:, 3:] += TURNED_ALIKE ** 2 * np.eye(3)
    return covariance


def _check_fitted(checkpoints, fingerprint):
    """Refuse models whose scores were fitted to poses that another refiner mended."""
    for one in checkpoints:
        known = one.calibration.get('refiner')
        if known != fingerprint:
            raise InputError(
                f'{one.model.name}: expected a score fitted to poses as {FILE} ({fingerprint}) '
                f'mends them, got one fitted to those of {known or "another one"}: fit it with '
                'python -m pose_estimator calibrate MODEL.safetensors')


def is_in_doubt(chance):
    """Return whether an object, whose pose has this score, is looked for without its mask."""
    return HOPELESS <= chance < SURE_ENOUGH


def is_surer(chance, without_mask):
    """Return whether the pose found without the mask counts, by the scores of both."""
    return is_in_doubt(chance) and without_mask >= chance + SURER


def _unusable(instance):
    """Return why no pose can come of an instance, '' if one can."""
    pixels = int(instance.mask.sum())
    if pixels < MIN_MASK_PIXELS:
        return f'the mask has {pixels} pixels, {MIN_MASK_PIXELS} are needed'
    x0, y0, x1, y1 = instance.box
    if x1 - x0 < 4 or y1 - y0 < 4:
        return f'the box is {x1 - x0:.0f} x {y1 - y0:.0f} pixels, 4 x 4 are needed'
    return ''
