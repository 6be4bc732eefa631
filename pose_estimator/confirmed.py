"""
Scores of a segmenter, confirmed by networks that look for the keypoints, and by prints.

A detector knows an object by its colours and parts, and takes other things for it. A keypoint
network was taught where each point of the object is; shown another thing, it does not know. What
is printed on an object is on nothing else, and is seen the more surely the larger it is.
"""

from dataclasses import replace
import math
from pathlib import Path

import numpy as np

from .camera import CropCamera, usual_camera
from .keypoints.checkpoint import Checkpoint
from .keypoints.predictor import KeypointPredictor
from .pipeline import sight
from .prints import as_instances, PrintFinder, shared
from .scoring import FEATURES
from .segmentation.mask_rcnn import load_checkpoint, MaskRCNNSegmenter
from .sighting import sight_chance

# What the segmenter itself gives less than this is not looked at, nor what would have to gain
# more: the odds of things that it doubts are hardly ever so many times better afterwards.
LEAST_SCORE, MOST_GAINED = 0.2, 7 / 3
# What is surer than this is not looked at for its print, which takes longer than the networks,
# nor what is less sure than LEAST_SCORE; nor are more of the same label looked for.
SURE = 0.95
# The real thing may be labelled otherwise than its mesh, so that its print is never sure to be
# seen; and the chance that it is seen on something else.
MOST_SIGHTED, FALSELY_SIGHTED = 0.8, 0.02
# Odds are no worse than those of this chance and no better than those of what is left.
LEAST_CHANCE = 1e-4


class ConfirmedSegmenter:
    """
    A segmenter whose scores take into account what keypoint networks see in its detections.

    The odds of a score are multiplied by the odds of the network's mean confidence in the
    keypoints, over those that it has of a virtual crop that is harder than most (its mean less a
    standard deviation). Weights fitted to virtual scenes are about these (docs/segmentation.md).
    Where that leaves doubt about an object with landmarks, the odds are multiplied by those with
    which its print is seen on it, or is not, in a box of this size (sighting.py).

    Parameters
    ----------
    segmenter : Segmenter
        It should tell what it gives a score of LEAST_SCORE or more, not only what is sure.
    predictors : dict of label -> KeypointPredictor
        Detections with other labels keep their scores.
    min_score : float
        Detections below are dropped.
    finder : PrintFinder or None
        What finds more things, and other names for things, by their prints.

    Attributes
    ----------
    labels : tuple of str

    """

    def __init__(self, segmenter, predictors, min_score=0.5, finder=None):
        self._segmenter, self._predictors, self._min_score = segmenter, predictors, min_score
        self._finder = finder or PrintFinder({})
        self._usual = {label: _log_odds(_hard_confidence(predictor.checkpoint.calibration))
                       for label, predictor in predictors.items()}

    @classmethod
    def from_checkpoint(cls, path, models=None, device='cpu', min_score=0.5, class_map=None,
                        least=None):
        """
        Return a Mask R-CNN of train-segmenter, confirmed by what train made of the same objects.

        Parameters
        ----------
        path : path
            Weights of the Mask R-CNN.
        models : path or None
            Directory of the keypoint models LABEL.safetensors; None: beside the weights. Of
            objects that it has no model of, detections keep their scores.
        device : str
            'cpu', 'cuda', ...
        min_score : float
            Detections below are dropped.
        class_map : dict of name -> label, or None
            See MaskRCNNSegmenter.
        least : float or None
            Where an object has no keypoint model, the network's detections below are not
            looked at; None: those below `min_score`.

        """
        network, config, _ = load_checkpoint(path)
        labels = config.labels if class_map is None else class_map.values()
        models = Path(path).parent if models is None else Path(models)
        predictors = {}
        for label in dict.fromkeys(labels):
            file = models / f'{label}.safetensors'
            is_there = file.is_file() and not file.samefile(path)
            checkpoint = Checkpoint.load(file) if is_there else None
            if checkpoint is not None and checkpoint.is_calibrated:
                predictors[label] = KeypointPredictor(checkpoint, device)
        hopeful = max(LEAST_SCORE, _chance(_log_odds(min_score) - math.log(MOST_GAINED)))
        if not set(labels) <= set(predictors):
            hopeful = min(hopeful, min_score if least is None else least)
        segmenter = MaskRCNNSegmenter.of(network, config, device, hopeful, class_map)
        finder = PrintFinder({label: one.checkpoint for label, one in predictors.items()})
        return cls(segmenter, predictors, min_score, finder)

    @property
    def labels(self):
        """What is found."""
        return self._segmenter.labels

    @property
    def ignored(self):
        """How often each class that is not mapped was detected."""
        return self._segmenter.ignored

    def segment(self, image):
        """
        Find the objects in an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3) or, grey, (H, W)
            RGB, at least 16 x 16.

        Returns
        -------
        instances : list of Instance
            Best score first, ids counted from 1.

        """
        found = self._segmenter.segment(image)
        rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
        camera = usual_camera(*rgb.shape[:2])
        groups: dict = {}
        for instance in found:
            groups.setdefault(instance.label, []).append(instance)
        scored = []
        for label, instances in groups.items():
            if label in self._predictors:
                instances = self._confirmed(label, rgb, instances, camera)
            scored += instances
        scored = self._with_prints(rgb, camera, scored)
        scored = sorted((one for one in scored if one.score >= self._min_score),
                        key=lambda one: -one.score)
        return [replace(one, id=number) for number, one in enumerate(scored, 1)]

    def _with_prints(self, image, camera, instances):
        """Return the instances with those found by their prints, of labels not found surely."""
        known = [one for one in instances if one.score >= SURE]
        unsure = [one for one in instances if one.score < SURE]
        labels = set(self._finder.labels) - {one.label for one in known}
        if not labels:
            return instances
        elsewhere = np.ones(image.shape[:2], bool)
        for one in known:
            elsewhere &= ~one.mask
        prints = [one for one in self._finder.find(image, camera, labels, elsewhere)
                  if not any(one.is_of(other) for other in known)]
        own, misnamed = shared(prints, unsure)
        seen = {index: prints[number].score for number, index in own.items()}
        kept = known + [replace(one, score=max(one.score, seen.get(index, 0.0)))
                        for index, one in enumerate(unsure) if index not in misnamed]
        alone = [one for number, one in enumerate(prints) if number not in own]
        return kept + as_instances(alone, kept)

    def _confirmed(self, label, image, instances, camera):
        """Return instances of one label with other scores."""
        predictor = self._predictors[label]
        crops = [CropCamera.look_at(camera, instance.box, predictor.size,
                                    predictor.checkpoint.margin) for instance in instances]
        masks = np.stack([crop.crop(one.mask.view(np.uint8) * np.uint8(255))
                          for crop, one in zip(crops, instances)])
        seen = predictor.predict(np.stack([crop.crop(image) for crop in crops]), masks)
        gained = [_log_odds(confidence.mean()) - self._usual[label]
                  for confidence in seen.confidence]
        sighted = predictor.checkpoint.calibration.get('sighted')
        scores = [_chance(_log_odds(one.score) + more) for one, more in zip(instances, gained)]
        if sighted is not None:
            doubtful = [index for index, chance in enumerate(scores)
                        if LEAST_SCORE <= chance < SURE]
            found = sight(predictor.checkpoint, image, [instances[index] for index in doubtful],
                          camera)
            for index, poses in zip(doubtful, found):
                chance = sight_chance(sighted, instances[index].box)
                scores[index] = _chance(_log_odds(scores[index])
                                        + _log_of_print(chance, bool(poses)))
        return [replace(one, score=score) for one, score in zip(instances, scores)]


def _log_of_print(chance, is_seen):
    """Return how much more probable it is that the object's print is (not) seen if it is there."""
    chance = min(chance, MOST_SIGHTED)
    return math.log(chance / FALSELY_SIGHTED if is_seen
                    else (1 - chance) / (1 - FALSELY_SIGHTED))


def _hard_confidence(calibration):
    """Return the mean confidence of a virtual crop that is harder than most."""
    place = FEATURES.index('confidence')
    return calibration['mean'][place] - calibration['scale'][place]


def _log_odds(chance):
    chance = min(max(float(chance), LEAST_CHANCE), 1 - LEAST_CHANCE)
    return math.log(chance / (1 - chance))


def _chance(log_odds):
    return 1 / (1 + math.exp(-log_odds))
