"""
Measure a segmenter on a data set in BOP's layout.

    python -m pose_estimator evaluate-segmenter DATASET --weights models/lmo.segmenter.safetensors
    python -m pose_estimator evaluate-segmenter DATASET --detections detections.json

True boxes are the annotated ones of the visible parts of the targets; true masks are
true_masks.TrueMasks's, and only those that agree with the annotated number of visible pixels to
10 % are measured against. --output keeps what was found as a file for `evaluate --detections`.
"""

from collections import defaultdict
import json
from pathlib import Path
import resource
import time
from typing import NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from . import assets
from .bop import BopDataset, LEAST_VISIBLE
from .errors import InputError
from .instance import box_iou, Instance
from .segmentation.recorded import encode_rle, RecordedSegmenter
from .true_masks import TrueMasks

# A detection is right if its box overlaps the true one by so much.
RIGHT_IOU = 0.5
# Average precision needs the unsure detections too.
LEAST_SCORE = 0.05
MIN_SCORE = 0.5


class TrueObject(NamedTuple):
    """
    An annotated object of an image.

    Attributes
    ----------
    label : str
    box : array, shape (4,)
        Of the visible part, see Instance.box.
    mask : array of bool, shape (H, W), or None
        None where there is no mask that can be trusted.
    counts : bool
        Whether it is a target and visible enough.

    """

    label: str
    box: np.ndarray
    mask: Optional[np.ndarray]
    counts: bool


class Match(NamedTuple):
    """
    A detection, and the true object whose box it hits.

    Attributes
    ----------
    score : float
    truth : int or None
        Index of the true object; None for a false detection.

    """

    score: float
    truth: Optional[int]


def mask_iou(first, second):
    """Return the intersection over union of two masks, shape (H, W) each."""
    both = np.count_nonzero(first & second)
    return both / max(int(np.count_nonzero(first | second)), 1)


def match(instances, truths):
    """
    Match an image's detections to its true objects, the best scores first.

    A detection takes the free true object of its label whose box it overlaps most, if by
    RIGHT_IOU or more; so a second detection of the same thing is false.

    Parameters
    ----------
    instances : list of Instance
        What was found.
    truths : list of TrueObject
        What is there.

    Returns
    -------
    matches : list of Match
        One for each instance, in their order.

    """
    matches = [Match(0.0, None)] * len(instances)
    free = set(range(len(truths)))
    for index in sorted(range(len(instances)), key=lambda one: -instances[one].score):
        instance = instances[index]
        overlaps = {truth: box_iou(instance.box, truths[truth].box) for truth in free
                    if truths[truth].label == instance.label}
        best = max(overlaps, key=lambda one: overlaps[one], default=None)
        if best is not None and overlaps[best] < RIGHT_IOU:
            best = None
        free.discard(best)
        matches[index] = Match(instance.score, best)
    return matches


def best_scored(instances, truths):
    """
    Return the best-scored instances of each label, as many as the image has true objects of it.

    These are what recall and masks are measured on: a user who knows what lies there takes them.

    """
    kept = []
    for label in sorted({one.label for one in truths}):
        count = sum(one.label == label for one in truths)
        of_label = sorted((one for one in instances if one.label == label),
                          key=lambda one: -one.score)
        kept += of_label[:count]
    return kept


class Scores:
    """
    What a segmenter is worth, collected image by image.

    Attributes
    ----------
    images : int
    trusted : int
        Targets with a true mask that can be trusted.
    targets : dict of label -> int
    hits : list of (label, score, IoU of the masks or nan, pixels found over true or nan)
        One for each target whose best-scored detection is right.
    false : list of (label, score)
        One for each false detection.

    """

    def __init__(self):
        self.images, self.trusted = 0, 0
        self.targets = defaultdict(int)
        self.hits, self.false = [], []

    def add(self, instances, truths):
        """Count an image: lists of Instance and of TrueObject."""
        self.images += 1
        for truth in truths:
            self.targets[truth.label] += truth.counts
            self.trusted += truth.counts and truth.mask is not None
        self.false += [(instance.label, instance.score) for instance, one
                       in zip(instances, match(instances, truths)) if one.truth is None]
        best = best_scored(instances, truths)
        for instance, one in zip(best, match(best, truths)):
            truth = None if one.truth is None else truths[one.truth]
            if truth is None or not truth.counts:
                continue
            overlap = share = np.nan
            if truth.mask is not None:
                overlap = mask_iou(instance.mask, truth.mask)
                share = instance.mask.sum() / truth.mask.sum()
            self.hits.append((instance.label, instance.score, overlap, share))

    def row(self, min_score=0.0, label=None):
        """
        Return the figures at a threshold, of one label or all.

        Returns
        -------
        row : dict
            'targets', 'recall', 'mask_iou' and 'mask_iou_median' (of the matched with a trusted
            mask), 'mask_size' (median of pixels found over true), 'false_per_image'; shares 0..1.

        """
        hits = [one for one in self.hits if one[1] >= min_score and label in (None, one[0])]
        count = sum(self.targets.values()) if label is None else self.targets[label]
        overlaps = np.array([one[2:] for one in hits if np.isfinite(one[2])]).reshape(-1, 2)
        false = sum(score >= min_score and label in (None, name) for name, score in self.false)
        return {'targets': count, 'recall': len(hits) / max(count, 1),
                'mask_iou': float(overlaps[:, 0].mean()) if len(overlaps) else np.nan,
                'mask_iou_median': float(np.median(overlaps[:, 0])) if len(overlaps) else np.nan,
                'mask_size': float(np.median(overlaps[:, 1])) if len(overlaps) else np.nan,
                'false_per_image': false / max(self.images, 1)}

    def threshold_of_recall(self, recall):
        """Return the highest score at which the recall is at least so much; None: never."""
        wanted = int(np.ceil(recall * sum(self.targets.values()) - 1e-9))
        scores = sorted((one[1] for one in self.hits), reverse=True)
        return scores[wanted - 1] if 0 < wanted <= len(scores) else None


def true_objects(dataset, true_masks, names, scene_id, image_id, height, width):
    """Return the TrueObjects of an image, of the objects with a name in `names`."""
    targets = {one.object_id for one in dataset.targets()
               if (one.scene_id, one.image_id) == (scene_id, image_id)}
    masks = defaultdict(list)
    before = len(true_masks.untrusted)
    for instance in true_masks.instances(scene_id, image_id, height, width):
        masks[instance.label].append(instance)
    del true_masks.untrusted[before:]
    found = []
    for truth in dataset.truths(scene_id, image_id):
        if truth.object_id not in names or truth.box_visible is None:
            continue
        label = names[truth.object_id]
        # Cut to its box, a mask belongs to the true object whose box it fills best.
        near = max(masks[label], key=lambda one: box_iou(one.box, truth.box_visible),
                   default=None)
        # Those of which less is seen count neither as missed nor as false.
        is_seen = truth.visible_fraction is None or truth.visible_fraction >= LEAST_VISIBLE
        found.append(TrueObject(
            label, truth.box_visible,
            near.mask if near is not None and box_iou(near.box, truth.box_visible) > 0 else None,
            truth.object_id in targets and is_seen))
    return found


class CocoScores:
    """Average precision of boxes and masks, as COCO defines it, by pycocotools."""

    def __init__(self, labels):
        self._numbers = {label: index + 1 for index, label in enumerate(sorted(labels))}
        self._images, self._truths, self._found = [], [], []

    def add(self, instances, truths, height, width):
        """Count an image: lists of Instance and of TrueObject."""
        image = len(self._images) + 1
        self._images.append({'id': image, 'height': height, 'width': width})
        for truth in truths:
            # What is no target, and for masks what has no trusted one, is neither right nor
            # wrong: COCO's crowds.
            self._truths.append({
                'id': len(self._truths) + 1, 'image_id': image, 'box': _coco_box(truth.box),
                'category_id': self._numbers[truth.label], 'counts': truth.counts,
                'mask': None if truth.mask is None else encode_rle(truth.mask)})
        for instance in instances:
            if instance.label in self._numbers:
                self._found.append({
                    'image_id': image, 'category_id': self._numbers[instance.label],
                    'score': instance.score, 'bbox': _coco_box(instance.box),
                    'segmentation': encode_rle(instance.mask)})

    def average_precisions(self):
        """
        Return {'box': (AP, AP50), 'mask': (AP, AP50)}, None without pycocotools.

        AP is averaged over IoU thresholds of 0.5 to 0.95.

        """
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError:
            return None
        import contextlib
        import io
        result = {}
        for kind in ('box', 'mask'):
            with contextlib.redirect_stdout(io.StringIO()):
                truth = COCO()
                truth.dataset = {'images': self._images, 'annotations': self._annotations(kind),
                                 'categories': [{'id': number} for number
                                                in self._numbers.values()]}
                truth.createIndex()
                if not self._found:
                    result[kind] = (0.0, 0.0)
                    continue
                found = truth.loadRes([_compressed(one) for one in self._found])
                scorer = COCOeval(truth, found, 'bbox' if kind == 'box' else 'segm')
                scorer.evaluate()
                scorer.accumulate()
                scorer.summarize()
            result[kind] = float(scorer.stats[0]), float(scorer.stats[1])
        return result

    def _annotations(self, kind):
        annotations = []
        for one in self._truths:
            x, y, width, height = one['box']
            counts = one['counts'] and (kind == 'box' or one['mask'] is not None)
            outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            annotations.append({
                'id': one['id'], 'image_id': one['image_id'], 'iscrowd': int(not counts),
                'category_id': one['category_id'], 'bbox': one['box'], 'area': width * height,
                'segmentation': outline if one['mask'] is None else one['mask']})
        return annotations


def _coco_box(box):
    """Return x, y, width, height, counted from the first pixel's edge, of Instance.box."""
    return [*(box[:2] + 0.5).tolist(), *(box[2:] - box[:2]).tolist()]


def _compressed(detection):
    from pycocotools import mask
    code = detection['segmentation']
    return {**detection, 'segmentation': mask.frPyObjects(code, *code['size'])}


def object_names(dataset, labels):
    """
    Return {BOP number: label} of those labels that are objects of a data set.

    A label belongs to the number that the data set says, where it names its objects, or else to
    the number in it, as in obj_000006, or to the bop_id that the package's models/LABEL.yaml has.

    """
    import yaml
    if dataset.names():
        return {number: name for number, name in dataset.names().items() if name in labels}
    names = {}
    known = {one.object_id for one in dataset.targets()}
    for label in labels:
        number = label[4:] if label.startswith('obj_') else None
        path = assets.find('models') / f'{label}.yaml'
        if number is None and path.is_file():
            number = yaml.safe_load(path.read_text()).get('bop_id')
        if number is not None and str(number).isdigit() and int(number) in known:
            names[int(number)] = label
    return names


def add_arguments(parser):
    """Declare the command's options."""
    parser.add_argument('dataset', type=Path, metavar='DATASET',
                        help='folder in BOP layout: test/, models/, test_targets_bop19.json')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--detections', type=Path, metavar='JSON',
                        help="a segmenter's output, COCO-style JSON as BOP has it")
    source.add_argument('--weights', type=Path, metavar='FILE',
                        help='weights of train-segmenter (default: those that the package ships)')
    source.add_argument('--prints', type=Path, metavar='DIR',
                        help='no segmenter, but what is found by the prints that the models in '
                        'this folder know')
    parser.add_argument('--unconfirmed', action='store_true',
                        help='with --weights: without what keypoint models beside the weights '
                        'say of its detections')
    parser.add_argument('--mask-growth', type=float, default=0.0, metavar='SHARE',
                        help="how far recorded detections' masks are widened, in longer sides of "
                        'the box (default: %(default)s)')
    parser.add_argument('--min-score', type=float, default=MIN_SCORE,
                        help='threshold of the figures besides average precision '
                        '(default: %(default)s)')
    parser.add_argument('--equal-recall', type=float, metavar='SHARE',
                        help='give false detections also at the threshold with this recall, as '
                        'another segmenter has it, 0..1')
    parser.add_argument('--objects', type=int, nargs='+', metavar='N',
                        help='only these BOP numbers (default: all)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, ... (default: %(default)s)')
    parser.add_argument('--output', type=Path, metavar='JSON',
                        help='where to write what was found at the threshold, for evaluate '
                        '--detections')
    parser.add_argument('--json', type=Path, metavar='FILE', help='where to write the table too')


def run(args):
    """Carry out the command; return the exit code."""
    dataset = BopDataset(args.dataset)
    for name in ('min_score', 'equal_recall'):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise InputError(f'--{name.replace("_", "-")}: expected 0 to 1, got {value}')
    for path in (args.output, args.json):
        if path is not None and not path.parent.is_dir():
            raise InputError(f'{path}: expected an existing folder to write into')
    find, names, what = _source(args, dataset)
    if args.objects is not None:
        names = {number: label for number, label in names.items() if number in args.objects}
    true_masks = TrueMasks(dataset, names)
    scores, coco = Scores(), CocoScores(names.values())
    seconds, entries = [], []
    for scene_id, image_id in tqdm(dataset.images(), unit='image', disable=None):
        image = dataset.image(scene_id, image_id)
        height, width = image.shape[:2]
        started = time.perf_counter()
        instances = find(image, scene_id, image_id)
        seconds.append(time.perf_counter() - started)
        if args.objects is not None:
            instances = [one for one in instances if one.label in names.values()]
        truths = true_objects(dataset, true_masks, names, scene_id, image_id, height, width)
        scores.add(instances, truths)
        coco.add(instances, truths, height, width)
        numbers = {label: number for number, label in names.items()}
        entries += [_entry(scene_id, image_id, numbers[one.label], one, seconds[-1])
                    for one in instances if one.label in numbers
                    and one.score >= args.min_score]
    table = _report(args, dataset, names, what, scores, coco,
                    seconds if args.detections is None else None)
    if args.output is not None:
        args.output.write_text(json.dumps(entries))
        print(f'{len(entries)} detections written to {args.output}')
    if args.json is not None:
        args.json.write_text(json.dumps(table, indent=1) + '\n')
    return 0


def _source(args, dataset):
    """Return a function that finds instances, {number: label}, and words that say what it is."""
    if args.detections is not None:
        names = {number: f'obj_{number:06d}'
                 for number in sorted({one.object_id for one in dataset.targets()})}
        recorded = RecordedSegmenter(args.detections, names, args.mask_growth)
        return (lambda image, scene_id, image_id: recorded.instances(
            scene_id, image_id, *image.shape[:2])), names, args.detections.name
    from .confirmed import ConfirmedSegmenter
    from .prints import PrintSegmenter
    from .segmentation.mask_rcnn import MaskRCNNSegmenter
    if args.prints is not None:
        finder = PrintSegmenter.from_directory(args.prints, 0.0)
        return (lambda image, scene_id, image_id: finder.segment(image),
                object_names(dataset, finder.labels), 'prints')
    weights = args.weights or assets.find('models') / 'segmenter.safetensors'
    least = min(LEAST_SCORE, args.min_score)
    segmenter = (MaskRCNNSegmenter.from_checkpoint(weights, args.device, least) if args.unconfirmed
                 else ConfirmedSegmenter.from_checkpoint(weights, None, args.device, 0.0,
                                                         least=least))
    segmenter.segment(dataset.image(*dataset.images()[0]))  # the first one takes longer
    return (lambda image, scene_id, image_id: segmenter.segment(image),
            object_names(dataset, segmenter.labels), weights.name)


def _entry(scene_id, image_id, number, instance: Instance, seconds):
    return {'scene_id': scene_id, 'image_id': image_id, 'category_id': number,
            'score': round(instance.score, 5), 'time': round(seconds, 4),
            'bbox': [round(value, 2) for value in _coco_box(instance.box)],
            'segmentation': encode_rle(instance.mask)}


def _report(args, dataset, names, what, scores, coco, seconds):
    """Print the figures; return them as a dict of JSON values."""
    total = sum(scores.targets.values())
    print(f'{dataset.name}, {what}: {scores.images} images, {total} targets, '
          f'{scores.trusted} of them with a true mask that can be trusted')
    table = {'dataset': dataset.name, 'segmenter': what, 'images': scores.images,
             'targets': total, 'trusted_masks': scores.trusted, 'min_score': args.min_score}
    if names and total:
        precisions = coco.average_precisions()
        table['average_precision'] = precisions
        if precisions is None:
            print('Average precision needs pycocotools: pip install pycocotools')
        else:
            print(', '.join(f'{kind} AP {100 * mean:.1f}, AP50 {100 * half:.1f}'
                            for kind, (mean, half) in precisions.items()))
    print(f'{"":12}{"targets":>9}{"recall":>9}{"mask IoU":>10}{"median":>9}{"size":>7}'
          f'{"false/image":>13}')
    rows = {'any score': scores.row(), f'>= {args.min_score:g}': scores.row(args.min_score)}
    if args.equal_recall is not None:
        threshold = scores.threshold_of_recall(args.equal_recall)
        if threshold is None:
            print(f'No threshold has a recall of {args.equal_recall:g}.')
        else:
            rows[f'>= {threshold:.3f}'] = scores.row(threshold)
    rows.update({label: scores.row(args.min_score, label) for label in sorted(names.values())})
    for name, row in rows.items():
        print(f'{name:12}{row["targets"]:9d}{100 * row["recall"]:8.1f}%{row["mask_iou"]:10.3f}'
              f'{row["mask_iou_median"]:9.3f}{row["mask_size"]:7.2f}'
              f'{row["false_per_image"]:13.2f}')
    table['rows'] = {name: {key: value if np.isfinite(value) else None
                            for key, value in row.items()} for name, row in rows.items()}
    if seconds is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f'Seconds an image: median {np.median(seconds):.3f}, mean {np.mean(seconds):.3f}; '
              f'peak memory of the process {peak:.0f} MB')
        table.update(seconds_median=float(np.median(seconds)),
                     seconds_mean=float(np.mean(seconds)), peak_memory_mb=round(peak))
    return table
