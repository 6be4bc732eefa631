"""The segmenters that segmentation_node chooses from by its parameter `segmenter`."""

import json
from pathlib import Path
import zlib

import numpy as np

from .parameters import pairs
from .. import assets
from ..bop import BopDataset
from ..errors import InputError
from ..segmentation.recorded import RecordedSegmenter

WARM_UP_SIZE = 480, 640


class ReplayedDetections:
    """
    Recorded detections of a BOP data set's images, which are recognised by their pixels.

    So they come to the right images from dataset_camera, a bag or any other lossless source,
    in any order.

    Parameters
    ----------
    detections : path
        Detections in COCO's format, as BOP gives them.
    dataset : path
        BOP data set with the images.
    class_map : dict
        Name obj_NNNNNN of BOP -> label; empty: the names are the labels.
    min_score : float
        Detections below are dropped.
    mask_growth : float
        See RecordedSegmenter.

    """

    def __init__(self, detections, dataset, class_map, min_score, mask_growth):
        for name, path in (('detections', detections), ('dataset', dataset)):
            if not path:
                raise InputError(f'parameter {name}: expected a path, which segmenter recorded '
                                 'needs, got none')
        images, categories = _contents(detections)
        bop_names = {number: f'obj_{number:06d}' for number in categories}
        unknown = sorted(set(class_map) - set(bop_names.values()))
        if unknown:
            raise InputError(f'class_map: expected objects of {detections} '
                             f'({", ".join(bop_names.values())}), got {", ".join(unknown)}')
        names = {number: class_map.get(name) for number, name in bop_names.items()} \
            if class_map else bop_names
        names = {number: name for number, name in names.items() if name}
        self._recorded = RecordedSegmenter(detections, names, mask_growth)
        self._min_score = min_score
        self.labels = tuple(names.values())
        source = BopDataset(dataset)
        self._images = {_checksum(source.image(*image)): image
                        for image in source.images() if image in images}
        if not self._images:
            raise InputError(f'{dataset}: expected images that {detections} has detections of, '
                             'got none')

    @property
    def ignored(self):
        """How often each category that is not mapped was detected."""
        return self._recorded.ignored

    def segment(self, image):
        """Return the recorded instances of an RGB image, shape (H, W, 3), uint8."""
        found = self._images.get(_checksum(image))
        if found is None:
            raise InputError('image: expected one of the data set whose detections are '
                             'replayed, got other pixels')
        return [instance for instance in self._recorded.instances(*found, *image.shape[:2])
                if instance.score >= self._min_score]


def _contents(detections):
    """Return the images (scene_id, image_id) and the categories of a file of detections."""
    try:
        entries = json.loads(Path(detections).read_text())
        return ({(entry['scene_id'], entry['image_id']) for entry in entries},
                sorted({entry['category_id'] for entry in entries}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{detections}: expected a list of detections with scene_id, image_id '
                         f'and category_id, got {type(error).__name__}: {error}') from error


def _checksum(image):
    return zlib.crc32(image), image.shape


def _warm(segmenter):
    """Return a segmenter after its first image, which takes longer than the others."""
    segmenter.segment(np.zeros((*WARM_UP_SIZE, 3), np.uint8))
    return segmenter


def _mask_rcnn(parameters, class_map):
    from ..confirmed import ConfirmedSegmenter
    from ..segmentation.mask_rcnn import MaskRCNNSegmenter
    weights = parameters.weights or assets.find('models') / 'segmenter.safetensors'
    kind = ConfirmedSegmenter if parameters.confirm else MaskRCNNSegmenter
    return _warm(kind.from_checkpoint(weights, device=parameters.device,
                                      min_score=parameters.min_score,
                                      class_map=class_map or None))


def _coco(parameters, class_map):
    from ..segmentation.mask_rcnn import MaskRCNNSegmenter
    return _warm(MaskRCNNSegmenter.coco(parameters.device, parameters.min_score,
                                        class_map or None))


def _recorded(parameters, class_map):
    return ReplayedDetections(parameters.detections, parameters.dataset, class_map,
                              parameters.min_score, parameters.mask_growth)


def _prints(parameters, class_map):
    from ..prints import PrintSegmenter
    if class_map:
        raise InputError('class_map: expected none with segmenter prints, which knows things by '
                         'the names of their models, got one')
    models = Path(parameters.weights or assets.find('models'))
    return _warm(PrintSegmenter.from_directory(models if models.is_dir() else models.parent,
                                               parameters.min_score))


SEGMENTERS = {'mask_rcnn': _mask_rcnn, 'coco': _coco, 'prints': _prints,
              'recorded': _recorded}


def make_segmenter(parameters):
    """Return the segmenter that segmentation_node's parameters describe."""
    class_map = pairs('class_map', parameters.class_map)
    return SEGMENTERS[parameters.segmenter](parameters, class_map)


def free_memory(device):
    """Give memory of a GPU back that nothing holds any more."""
    if device.startswith('cuda'):
        import torch
        torch.cuda.empty_cache()
