"""Instances that some other segmenter found earlier, read from a file of detections."""

from collections import Counter, defaultdict
import json
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..instance import Instance, widened

# A Mask R-CNN draws its masks too small, mostly; so much, in longer sides of the box, makes up for
# that of CosyPose's on photographs (chosen on cat and driller of LM-O: docs/experiments.md).
MASK_GROWTH = 0.017
KEYS = ('scene_id', 'image_id', 'category_id', 'score', 'bbox', 'segmentation')


class RecordedSegmenter:
    """
    Replays a detections file in BOP's layout (COCO results with scene_id and image_id).

    Parameters
    ----------
    path : path
        JSON list of objects with the keys of KEYS; segmentation in uncompressed RLE.
    names : dict of int -> str
        Label of each category; a category that it lacks is ignored and counted.
    mask_growth : float
        How far the masks' outlines are moved outwards, in longer sides of the box.

    Attributes
    ----------
    labels : tuple of str
    ignored : Counter
        How often each unmapped category was replayed.

    Raises
    ------
    InputError
        For a file that is missing or of another layout.

    """

    def __init__(self, path, names, mask_growth=MASK_GROWTH):
        self._mask_growth = mask_growth
        self._path = Path(path)
        self._names = dict(names)
        self.labels = tuple(dict.fromkeys(self._names.values()))
        self.ignored = Counter()
        try:
            entries = json.loads(self._path.read_text())
        except FileNotFoundError as error:
            raise InputError(f'{path}: expected detections, got no such file') from error
        except (OSError, ValueError) as error:
            raise InputError(f'{path}: expected a JSON list of detections, got {error}'
                             ) from error
        if not isinstance(entries, list):
            raise InputError(f'{path}: expected a JSON list of detections, got '
                             f'{type(entries).__name__}')
        self._entries = defaultdict(list)
        for number, entry in enumerate(entries):
            missing = [key for key in KEYS if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise InputError(f'{path}: detection {number}: expected the key '
                                 f'{missing[0]!r}')
            try:
                numbers = [*map(float, entry['bbox']), float(entry['score'])]
                sound = len(numbers) == 5 and bool(np.isfinite(numbers).all())
                hash((entry['scene_id'], entry['image_id'], entry['category_id']))
            except (TypeError, ValueError):
                sound = False
            if not sound:
                raise InputError(f'{path}: detection {number}: expected numbers for ids and '
                                 f'score, and a bbox of four')
            self._entries[entry['scene_id'], entry['image_id']].append(entry)

    def instances(self, scene_id, image_id, height, width):
        """
        Return what was found in an image.

        Parameters
        ----------
        scene_id, image_id : int
            BOP's numbers of the image.
        height, width : int
            Size of the image.

        Returns
        -------
        instances : list of Instance
            Best score first, ids counted from 1; empty for an image without detections.

        """
        found = []
        entries = sorted(self._entries.get((scene_id, image_id), ()),
                         key=lambda entry: -entry['score'])
        for entry in entries:
            label = self._names.get(entry['category_id'])
            if label is None:
                self.ignored[entry['category_id']] += 1
                continue
            where = f'{self._path}: image {scene_id}/{image_id}'
            mask = decode_rle(entry['segmentation'], where)
            if mask.shape != (height, width):
                raise InputError(f'{where}: expected masks of {width} x {height} as the image '
                                 f'is, got {mask.shape[1]} x {mask.shape[0]}')
            x, y, box_width, box_height = entry['bbox']
            # COCO counts from the first pixel's edge, Instance from its centre.
            box = np.array([x, y, x + box_width, y + box_height]) - 0.5
            mask = widened(mask, self._mask_growth * max(box_width, box_height))
            found.append(Instance(label, float(entry['score']), box, mask, len(found) + 1))
        return found


def encode_rle(mask):
    """Return COCO's uncompressed run-length code of a mask (H, W): decode_rle's counterpart."""
    flat = np.concatenate([[0], np.asarray(mask, np.int8).ravel(order='F'), [0]])
    # Where runs begin and end, runs of 1 that reach the last pixel included.
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    if counts[-1] == 0:
        counts.pop()
    return {'size': list(mask.shape), 'counts': counts}


def decode_rle(segmentation, where='segmentation'):
    """
    Return the mask (H, W) of COCO's uncompressed run-length code.

    Parameters
    ----------
    segmentation : dict
        'size': [H, W] and 'counts': lengths of runs of 0 and 1 in turn, column by column.
    where : str
        What an error message begins with.

    """
    if not isinstance(segmentation, dict) or {'counts', 'size'} - set(segmentation):
        raise InputError(f'{where}: expected run-length code with counts and size, got '
                         f'{type(segmentation).__name__}')
    counts, size = segmentation['counts'], segmentation['size']
    if isinstance(counts, (str, bytes)):
        raise InputError(f'{where}: expected uncompressed run-length code (a list of counts), '
                         'got a compressed string; decode it with pycocotools.mask.decode and '
                         'write the runs as a list')
    try:
        height, width = size
        lengths = np.asarray(counts, np.int64)
        if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
            raise ValueError(f'runs of {lengths.sum()} pixels in all')
    except (TypeError, ValueError) as error:
        raise InputError(f'{where}: expected runs that fill {size}, got {error}') from error
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T
