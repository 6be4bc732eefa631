"""
Measure the estimator on a data set in BOP's layout.

    python -m pose_estimator evaluate DATASET --models models --detections detections.json \
        --output results.csv

writes BOP's result file and prints the share of targets that are right by the usual measures.
Detections decide what is estimated; neither the target list nor the truth is looked at for that.
"""

from collections import Counter
import json
from pathlib import Path
import time
from typing import NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from . import pose_error
from .bop import BopDataset, LEAST_VISIBLE, Result, Target, Truth, write_results
from .errors import InputError
from .scoring import RIGHT, sure_count
from .segmentation.recorded import MASK_GROWTH, RecordedSegmenter

COLUMNS = ('targets', 'missing', 'add', 'proj5', '5cm5deg', 'mssd', 'mspd', 'at95',
           'rot_median_deg', 'trans_median_mm')
# The shares of right targets by which BOP averages its recalls.
MSSD_THRESHOLDS = np.arange(0.05, 0.51, 0.05)  # of the diameter
MSPD_THRESHOLDS = 100 * MSSD_THRESHOLDS  # px, for images 640 wide


class Pair(NamedTuple):
    """An instance that is asked for, its truth, and the estimate that counts, if any."""

    target: Target
    truth: Truth
    found: Optional[Result]


class Errors(NamedTuple):
    """Errors of the estimate of one instance; infinite where there is none."""

    object_id: int
    score: float = -np.inf
    add: float = np.inf  # ADD or ADD-S, of the diameter
    mssd: float = np.inf  # of the diameter
    mspd: float = np.inf  # px
    proj: float = np.inf  # px
    rotation: float = np.inf  # degrees
    translation: float = np.inf  # m


def evaluate(estimator, dataset, instances_of, images=None):
    """
    Estimate all detected objects of a data set's images.

    Parameters
    ----------
    estimator : PoseEstimator
        Of objects of the data set; see names_by_number.
    dataset : BopDataset
        Where images and cameras come from.
    instances_of : function
        (scene_id, image_id, height, width) -> list of Instance.
    images : sequence of (scene_id, image_id)
        Default: all of the data set.

    Returns
    -------
    results : list of bop.Result
        One per detection with a pose; its time is that of estimating all of the image.

    """
    return to_results(estimates(estimator, dataset, instances_of, images),
                      names_by_number(estimator.models, dataset))


def estimates(estimator, dataset, instances_of, images=None):
    """Yield (scene_id, image_id, ObjectPose, seconds) of all detected objects; see evaluate."""
    for scene_id, image_id in images if images is not None else dataset.images():
        image = dataset.image(scene_id, image_id)
        height, width = image.shape[:2]
        camera = dataset.camera(scene_id, image_id, width, height)
        instances = instances_of(scene_id, image_id, height, width)
        start = time.perf_counter()
        poses = estimator.estimate(image if estimator.needs_image else None, instances, camera)
        seconds = time.perf_counter() - start
        for one in poses:
            yield scene_id, image_id, one, seconds


def to_results(found, names):
    """Return as bop.Results those of `estimates` that have a pose; {number: name} is given."""
    numbers = {name: number for number, name in names.items()}
    return [Result(scene_id, image_id, numbers[one.name], one.score, one.pose, seconds)
            for scene_id, image_id, one, seconds in found
            if one.pose is not None and one.name in numbers]


def best_results(results):
    """Return {Target: [Result, ...]}, the highest score first, equals in their order."""
    best: dict = {}
    for one in results:
        best.setdefault(Target(one.scene_id, one.image_id, one.object_id), []).append(one)
    return {target: sorted(own, key=lambda one: -one.score) for target, own in best.items()}


def pair(dataset, results, targets):
    """
    Say which estimate counts for each instance that is asked for.

    Of the estimates of an object in an image those with the highest scores count, as many as
    instances are asked for; from the first on, each is compared with the nearest true one that
    is left (by MSSD): as BOP does it, but for one threshold.

    Parameters
    ----------
    dataset : BopDataset
        Where the truth comes from.
    results : sequence of bop.Result
        In any order.
    targets : sequence of bop.Target
        What is asked for.

    Returns
    -------
    pairs : list of Pair
        For each target as many as it has instances.

    """
    best, counts = best_results(results), dataset.instance_counts()
    objects = {number: _ScoredObject(dataset, number)
               for number in sorted({target.object_id for target in targets})}
    pairs = []
    for target in targets:
        count = counts[target]
        truths = [one for one in dataset.truths(target.scene_id, target.image_id)
                  if one.object_id == target.object_id]
        # Sorting is stable: those that are hardly seen are asked for last.
        truths.sort(key=lambda one: one.visible_fraction is not None
                    and one.visible_fraction < LEAST_VISIBLE)
        if len(truths) < count:
            raise InputError(f'{dataset.path}: the target list names {count} of object '
                             f'{target.object_id} in image {target.image_id} of scene '
                             f'{target.scene_id}, where it has {len(truths)} true poses')
        seen = [one for one in truths if one.visible_fraction is None
                or one.visible_fraction >= LEAST_VISIBLE]
        free = seen if len(seen) >= count else truths[:count]
        found = [one for one in best.get(target, [])[:count] if one.pose is not None]
        own = _matched(found, free, objects[target.object_id])
        free = [one for one in free if not any(one is truth for truth, _ in own)]
        own += [(one, None) for one in free[:count - len(own)]]
        pairs += [Pair(target, *one) for one in own]
    return pairs


def _matched(found, truths, scored):
    """Return (Truth, Result) of each estimate; there are as many truths or more."""
    free, left, pairs = list(truths), [], []
    # What is nowhere near takes no true one from another estimate.
    for most, wanted in ((MSSD_THRESHOLDS[-1], found), (np.inf, left)):
        for one in list(wanted):
            errors = [scored.mssd(one, truth) for truth in free] if len(truths) > 1 else [0.0]
            if min(errors) <= most * scored.diameter:
                pairs.append((free.pop(int(np.argmin(errors))), one))
            else:
                left.append(one)
    return pairs


def measure(dataset, results, targets, symmetric_adds=None):
    """Return the Errors of what `pair` returns; see there, and errors_of."""
    return errors_of(dataset, pair(dataset, results, targets), symmetric_adds)


def errors_of(dataset, pairs, symmetric_adds=None):
    """
    Return the Errors of each pair.

    Parameters
    ----------
    dataset : BopDataset
        Of the pairs.
    pairs : sequence of Pair
        What `pair` returns.
    symmetric_adds : set of int
        Objects measured by ADD-S. Default: those with symmetries in models_info.json.

    Returns
    -------
    errors : list of Errors

    """
    objects = {number: _ScoredObject(dataset, number, symmetric_adds)
               for number in sorted({one.target.object_id for one in pairs})}
    cameras = {}
    errors = []
    for (scene_id, image_id, number), truth, found in pairs:
        if found is None:
            errors.append(Errors(number))
            continue
        if (scene_id, image_id) not in cameras:
            height, width = dataset.image(scene_id, image_id).shape[:2]
            cameras[scene_id, image_id] = dataset.camera(scene_id, image_id, width, height)
        errors.append(objects[number].errors(found, truth, cameras[scene_id, image_id]))
    return errors


class _ScoredObject:
    """What is needed to measure errors of one object."""

    def __init__(self, dataset, number, symmetric_adds=None):
        symmetries = dataset.symmetries(number)
        self.number = number
        self.points = dataset.error_points(number)
        self.diameter = dataset.diameter(number)
        self.symmetries = symmetries.transforms()
        self.is_symmetric = (len(self.symmetries) > 1 if symmetric_adds is None
                             else number in symmetric_adds)

    def mssd(self, found, truth):
        return pose_error.mssd(found.pose, truth.given_pose, self.points, self.symmetries)

    def errors(self, found, truth, camera):
        measure_add = pose_error.adi if self.is_symmetric else pose_error.add
        poses = found.pose, truth.given_pose
        return Errors(
            self.number, found.score, measure_add(*poses, self.points) / self.diameter,
            self.mssd(found, truth) / self.diameter,
            pose_error.mspd(*poses, self.points, self.symmetries, camera),
            pose_error.proj(*poses, self.points, camera),
            pose_error.re(found.pose, truth.pose, self.symmetries), pose_error.te(*poses))


def summarize(errors):
    """
    Return a row of the table, a dict with the keys of COLUMNS; shares in percent.

    add : ADD (ADD-S) below 0.1 diameters. proj5 : mean projection error below 5 px.
    5cm5deg : below 5 cm and 5 degrees. mssd, mspd : average recall by BOP's thresholds.
    at95 : coverage at 95 % precision, the largest share of targets that can be published from
    the highest score down while at least 95 % of what is published is right by add.
    The medians are over all targets, a missing one being infinitely far off.

    """
    table = np.array([one[1:] for one in errors], float)
    score, add, mssd, mspd, proj, rotation, translation = table.T
    is_right, found = add < RIGHT, np.isfinite(score)

    def recall(error, thresholds):
        return 100 * np.mean([np.mean(error < one) for one in thresholds])

    row = {'targets': len(table), 'missing': int(np.isinf(add).sum()),
           'add': 100 * is_right.mean(), 'proj5': 100 * np.mean(proj < 5),
           '5cm5deg': 100 * np.mean((rotation < 5) & (translation < 0.05)),
           'mssd': recall(mssd, MSSD_THRESHOLDS), 'mspd': recall(mspd, MSPD_THRESHOLDS),
           'at95': 100 * sure_count(score[found], is_right[found]) / len(table),
           'rot_median_deg': np.median(rotation), 'trans_median_mm': 1000 * np.median(translation)}
    return {key: value if isinstance(value, int) else float(value) for key, value in row.items()}


def score_table(errors):
    """Return {'all': row, 'obj 1': row, ...}; see summarize."""
    table = {'all': summarize(errors)}
    for number in sorted({one.object_id for one in errors}):
        table[f'obj {number}'] = summarize([one for one in errors if one.object_id == number])
    return table


def format_table(table):
    """Return a table as text, one line per row."""
    lines = [' ' * 8 + ''.join(f'{column:>16}' for column in COLUMNS)]
    for name, row in table.items():
        lines.append(f'{name:8}' + ''.join(
            f'{row[column]:16d}' if isinstance(row[column], int) else f'{row[column]:16.1f}'
            for column in COLUMNS))
    return '\n'.join(lines)


def median_errors(errors):
    """Return the median translation error in m and rotation error in degrees of found poses."""
    found = [one for one in errors if np.isfinite(one.score)]
    if not found:
        return None, None
    return (float(np.median([one.translation for one in found])),
            float(np.median([one.rotation for one in found])))


def names_by_number(models, dataset=None):
    """
    Return {number: name} of the models of a data set's objects.

    By the name, where the data set has names, or else by the models' bop_id.

    """
    known = dataset.names() if dataset is not None else {}
    if known:
        return {number: name for number, name in known.items() if name in models}
    names = {}
    for name, model in models.items():
        if model.bop_id is None:
            continue
        if model.bop_id in names:
            raise InputError(f'models: {names[model.bop_id]} and {name} both have bop_id '
                             f'{model.bop_id}; expected one')
        names[model.bop_id] = name
    return names


def add_arguments(parser):
    """Declare the command's options."""
    parser.add_argument('dataset', type=Path, metavar='DATASET',
                        help='folder in BOP layout: test/, models_eval/, test_targets_bop19.json')
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='folder of trained models (default: those of the package)')
    parser.add_argument('--detections', type=Path, metavar='FILE',
                        help="a segmenter's output, COCO-style JSON as BOP has it")
    parser.add_argument('--mask-growth', type=float, default=MASK_GROWTH, metavar='SHARE',
                        help="how far the detections' masks, mostly drawn too small, are widened, "
                        'in longer sides of the box (default: %(default)s)')
    parser.add_argument('--masks', choices=('detections', 'true'), default='detections',
                        help='true: visible masks from the true poses instead of detections, to '
                        'see what the segmenter costs (default: %(default)s)')
    parser.add_argument('--output', type=Path, metavar='CSV', required=True,
                        help="where to write BOP's result file")
    parser.add_argument('--input', choices=('rgb_mask', 'mask'), default='rgb_mask',
                        help='what the network sees (default: %(default)s)')
    parser.add_argument('--objects', type=int, nargs='+', metavar='N',
                        help='only these BOP numbers (default: all)')
    parser.add_argument('--symmetric-adds', type=int, nargs='*', metavar='N',
                        help='BOP numbers measured by ADD-S (default: those with symmetries in '
                        'models_info.json)')
    parser.add_argument('--no-refinement', action='store_true',
                        help='leave the poses as the keypoints have them, to see what mending '
                        'them brings; scores are fitted to mended ones, and none of them is '
                        'looked for without its mask')
    parser.add_argument('--no-landmarks', action='store_true',
                        help='do not look for what is printed on objects, to see what that brings')
    parser.add_argument('--no-support', action='store_true',
                        help='do not mend poses by what things stand on, to see what that brings')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, ... (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='where to write the table too')


def run(args):
    """Carry out the command; return the exit code."""
    dataset = BopDataset(args.dataset)
    targets = [one for one in dataset.targets()
               if args.objects is None or one.object_id in args.objects]
    if not targets:
        raise InputError(f'{args.dataset}: expected targets of objects {args.objects}, got none')
    if args.masks == 'detections' and args.detections is None:
        raise InputError('evaluate: expected --detections FILE, or --masks true')
    for path in (args.output, args.json):
        if path is not None and not path.parent.is_dir():
            raise InputError(f'{path}: expected an existing folder to write into')
    estimator = _load_estimator(args)
    names = names_by_number(estimator.models, dataset)
    if args.objects is not None:
        names = {number: name for number, name in names.items() if number in args.objects}
    if not names:
        raise InputError(f'{args.models or "models"}: expected models with the bop_id of an '
                         f'object of {args.dataset}, got none; train with --bop-id')
    source, ignored = _masks(args, dataset, names)
    images = tqdm(dataset.images(), unit='image', disable=None)
    results = evaluate(estimator, dataset, source.instances, images)
    write_results(args.output, results)
    if args.objects is not None:
        ignored = Counter({number: count for number, count in ignored.items()
                           if number in args.objects})

    if args.masks == 'true':
        untrusted = set(source.untrusted)
        left_out = [one for one in targets if one in untrusted]
        targets = [one for one in targets if one not in untrusted]
        print(f'True masks: {len(left_out)} of {len(targets) + len(left_out)} targets have no '
              'trustworthy one and are left out of the table.')
    errors = measure(dataset, results, targets,
                     None if args.symmetric_adds is None else set(args.symmetric_adds))
    _report(args, dataset, estimator, names, ignored, results, errors)
    return 0


def _load_estimator(args):
    from .pipeline import PoseEstimator
    if args.no_refinement and args.input == 'mask':
        raise InputError('--no-refinement: expected input rgb_mask, got mask, whose poses are not '
                         'mended anyway')
    models = args.models
    if models is None:
        from . import assets
        models = assets.find('models')
    # All poses go into the file: how far down the scores can be trusted is what at95 measures.
    return PoseEstimator.from_directory(models, network_input=args.input, device=args.device,
                                        min_score=0.0, refine=not args.no_refinement,
                                        use_landmarks=not args.no_landmarks,
                                        use_support=not args.no_support)


def _masks(args, dataset, names):
    """Return what has .instances(...), and the number of detections of each other category."""
    if args.masks == 'true':
        from .true_masks import TrueMasks
        return TrueMasks(dataset, names), Counter()
    recorded = RecordedSegmenter(args.detections, names, args.mask_growth)
    return recorded, recorded.ignored


def _report(args, dataset, estimator, names, ignored, results, errors):
    print(f'{dataset.name}, input {args.input}, masks '
          f'{"true" if args.masks == "true" else args.detections.name}, models: '
          + ', '.join(f'{name} ({number})' for number, name in sorted(names.items())))
    without = sorted({one.object_id for one in errors} - set(names))
    if without:
        print('Objects without a model, all their targets missing: '
              + ', '.join(map(str, without)))
    for category, count in sorted(ignored.items()):
        print(f'Detections without a model: category {category}, {count}')
    table = score_table(errors)
    print(format_table(table))
    translation, rotation = median_errors(errors)
    found = sum(np.isfinite(one.score) for one in errors)
    if found:
        print(f'Median error of the {found} targets with a pose: {100 * translation:.1f} cm, '
              f'{rotation:.1f} degrees')
    times = list({(one.scene_id, one.image_id): one.time for one in results}.values())
    if times:
        print(f'Time per image: mean {np.mean(times):.3f} s, median {np.median(times):.3f} s')
    print(f'{len(results)} poses written to {args.output}')
    if args.json is not None:
        args.json.write_text(json.dumps({
            'dataset': dataset.name, 'input': args.input, 'masks': args.masks,
            'detections': None if args.detections is None else args.detections.name,
            'models': {str(number): name for number, name in sorted(names.items())},
            'objects_without_model': without,
            'detections_without_model': {str(key): ignored[key] for key in sorted(ignored)},
            'table': {name: {column: value if np.isfinite(value) else None
                             for column, value in row.items()} for name, row in table.items()},
            'poses': len(results),
            'median_translation_cm': None if translation is None else 100 * translation,
            'median_rotation_deg': rotation,
            'seconds_per_image': float(np.mean(times)) if times else None}, indent=1) + '\n')
