"""
Measure the shipped models on data sets in BOP's layout, and write the tables into a document.

    python -m pose_estimator accuracy lmo=DATASET=detections.json cat=DATASET --output accuracy.md

Each data set is NAME=FOLDER or NAME=FOLDER=DETECTIONS; with detections it is measured with their
masks and with true visible ones, without with true ones alone. What stands in the document between
the lines `<!-- NAME -->` and `<!-- end -->` is replaced, pictures go into a folder beside it.
Nothing is trained, and the truth chooses nothing.
"""

from dataclasses import dataclass
import datetime
import os
from pathlib import Path
import re

import cv2
import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import chi2
from tqdm import tqdm

from . import assets
from .bop import BopDataset, read_results
from .devices import processor_name
from .drawing import draw_poses
from .errors import InputError
from .evaluate import (
    best_results, errors_of, estimates, names_by_number, pair, summarize, to_results)
from .instance import box_iou
from .pipeline import find_models, PoseEstimator
from .scoring import calibration_error, RIGHT
from .segmentation.recorded import RecordedSegmenter
from .true_masks import TrueMasks

SHOWN = ('targets', 'missing', 'add', 'proj5', '5cm5deg', 'mssd', 'mspd', 'at95')
VISIBLE = (0.0, 0.5, 0.7, 0.85, 1.01)
# A detection is of the object when its box overlaps the visible part's at least so much.
BOX_IOU = 0.5
# Thresholds of the score, beside the shipped one, for which it is told what is published.
LEAST_SCORES = (0.3, 0.5, 0.6, 0.7, 0.8)
# Shares of the errors that ellipsoids of the covariance should hold.
COVERED = (0.5, 0.9, 0.95)
# What the first row of a table is measured without, besides.
WITHOUT = {'each thing by itself (`--no-support`)': {'use_support': False},
           'poses not mended (`--no-refinement`)': {'refine': False}}


@dataclass(frozen=True, eq=False)
class Run:
    """
    All estimates of one data set by one network input and one kind of masks.

    Attributes
    ----------
    title : str
    names : dict
        Object number -> name.
    sure : dict
        Name -> score above which 95 % of its virtual poses are right.
    found : list of (scene_id, image_id, ObjectPose, seconds for the image)
    results : list of Result
    pairs : list of Pair
        The instances that are asked for.
    errors : list of Errors
        One for each pair.

    """

    title: str
    names: dict
    sure: dict
    found: list
    results: list
    pairs: list
    errors: list


def add_arguments(parser):
    """Declare the command's options."""
    parser.add_argument('datasets', nargs='+', metavar='NAME=FOLDER[=DETECTIONS]',
                        help="data sets in BOP layout, and a segmenter's output on them")
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='folder of trained models (default: those of the package)')
    parser.add_argument('--output', type=Path, required=True, metavar='MD',
                        help='document whose tables are rewritten')
    parser.add_argument('--peer', nargs=2, action='append', default=[],
                        metavar=('NAME', 'CSV'),
                        help="another method's result file on the first data set")
    parser.add_argument('--pictures', metavar='CREDIT',
                        help='write pictures of the first data set too, with this line of credit')


def run(args):
    """Carry out the command; return the exit code."""
    if not args.output.is_file():
        raise InputError(f'{args.output}: expected the document, got no such file')
    models = args.models or assets.find('models')
    folder = args.output.with_suffix('')
    text = args.output.read_text()
    for index, one in enumerate(args.datasets):
        name, *paths = one.split('=')
        if not 1 <= len(paths) <= 2:
            raise InputError(f'data set: expected NAME=FOLDER or NAME=FOLDER=DETECTIONS, got '
                             f'{one!r}')
        dataset = BopDataset(paths[0])
        detections = paths[1] if len(paths) == 2 else None
        peers = args.peer if index == 0 else []
        folder.mkdir(exist_ok=True)
        lines = _measure_dataset(name, dataset, detections, models, peers, folder,
                                 args.pictures if index == 0 else None)
        text = _replace(text, name, '\n'.join(lines), args.output)
        args.output.write_text(text)
        print('\n'.join(lines))
    return 0


def _replace(text, name, tables, path):
    """Return the document with the part of one data set replaced."""
    pattern = re.compile(rf'(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)', re.DOTALL)
    if not pattern.search(text):
        raise InputError(f'{path}: expected lines <!-- {name} --> and <!-- end -->, got none')
    return pattern.sub(lambda match: match[1] + tables + '\n' + match[2], text, count=1)


def _measure_dataset(name, dataset, detections, models, peers, folder, credit):
    """Return the lines of one data set's tables."""
    runs, plain = [], []
    for network_input in ('rgb_mask', 'mask'):
        if not find_models(models, network_input):
            continue
        estimator = PoseEstimator.from_directory(models, network_input)
        threshold, estimator.min_score = estimator.min_score, 0.0
        numbers = {target.object_id for target in dataset.targets()}
        names = {number: name
                 for number, name in names_by_number(estimator.models, dataset).items()
                 if number in numbers}
        if not names:
            continue
        sources: list = [('true', TrueMasks(dataset, names))]
        if detections is not None:
            sources.insert(0, ('detected', RecordedSegmenter(detections, names)))
        for kind, source in sources:
            title = f'`{network_input}`, {kind} masks'
            runs.append(_estimate(name, title, dataset, estimator, names, source))
        if estimator.needs_image:
            for without, options in WITHOUT.items():
                bare = PoseEstimator.from_directory(models, network_input, min_score=0.0,
                                                    objects=list(names.values()), **options)
                kind, source = sources[0]
                plain.append(_estimate(name, f'the same, {kind} masks, {without}', dataset, bare,
                                       names, source))
    if not runs:
        raise InputError(f'{models}: expected models of objects of {dataset.path}, got none')
    first = runs[0]
    lines = [f'{len(dataset.images())} images; {datetime.date.today().isoformat()}, '
             f'{processor_name()}, {len(os.sched_getaffinity(0))} cores.', '', _row('', SHOWN),
             _row('---', ['--:'] * len(SHOWN))]
    theirs = [_peer(dataset, *peer) for peer in peers]
    for one in runs + plain + theirs:
        lines.append(_row(one.title, _numbers(summarize(one.errors))))
    lines += ['', f'Per object, {first.title}:', '', _row('object', SHOWN),
              _row('---', ['--:'] * len(SHOWN))]
    for number in sorted({error.object_id for error in first.errors}):
        own = [error for error in first.errors if error.object_id == number]
        lines.append(_row(str(number), _numbers(summarize(own))))
    lines += [''] + _along_and_across(runs + theirs)
    lines += [''] + _by_visibility(runs + theirs)
    lines += [''] + _coverage(dataset, runs)
    if detections is not None:
        lines += [''] + _what_a_robot_gets(dataset, first, threshold, folder / f'{name}.png')
        lines += [''] + _worst(first)
    if credit:
        lines += [''] + _pictures(dataset, first, models, folder / f'{name}.jpg', credit)
    return lines


def _peer(dataset, title, path):
    """Return the Run of another method's result file."""
    results = read_results(path)
    pairs = pair(dataset, results, dataset.targets())
    return Run(title, {}, {}, [], results, pairs, errors_of(dataset, pairs))


def _estimate(name, title, dataset, estimator, names, source):
    """Return the Run of all instances of a source."""
    images = tqdm(dataset.images(), unit='image', desc=f'{name}, {title}')
    found = list(estimates(estimator, dataset, source.instances, images))
    results = to_results(found, names)
    untrusted = set(getattr(source, 'untrusted', ()))
    targets = [one for one in dataset.targets() if one.object_id in names
               and one not in untrusted]
    pairs = pair(dataset, results, targets)
    return Run(title, names, estimator.sure_scores, found, results, pairs,
               errors_of(dataset, pairs))


def _row(title, cells):
    return '| ' + ' | '.join([title, *map(str, cells)]) + ' |'


def _numbers(row):
    return [row[key] if isinstance(row[key], int) else f'{row[key]:.1f}' for key in SHOWN]


def _along_and_across(runs):
    """Return lines on translation errors along and across the viewing ray."""
    lines = ['Median errors of the found, and the shift along the ray by itself (+: too far):', '',
             _row('', ['rotation', 'along the ray', 'across it', 'along, signed']),
             _row('---', ['--:'] * 4)]
    for run in runs:
        rows = []
        for (_, truth, result), error in zip(run.pairs, run.errors):
            if result is not None:
                truth = truth.pose.t_m2c
                ray = truth / np.linalg.norm(truth)
                move = result.pose.t_m2c - truth
                rows.append((error.rotation, move @ ray, np.linalg.norm(move - (move @ ray) * ray),
                             (move @ ray) / np.linalg.norm(truth)))
        if not rows:
            lines.append(_row(run.title, ['-'] * 4))
            continue
        rotation, along, across, share = np.array(rows).T
        lines.append(_row(run.title, [
            f'{np.median(rotation):.1f} deg', f'{1e3 * np.median(np.abs(along)):.0f} mm',
            f'{1e3 * np.median(across):.0f} mm', f'{100 * np.median(share):+.1f} %']))
    return lines


def _by_visibility(runs):
    """Return lines on success by the visible fraction."""
    spans = list(zip(VISIBLE[:-1], VISIBLE[1:]))
    lines = ['ADD below 0.1 d by the visible fraction of the object (targets in brackets):', '',
             _row('', [f'{low:.2f} to {min(high, 1):.2f}' for low, high in spans]),
             _row('---', ['--:'] * len(spans))]
    for run in runs:
        visible = np.array([one.truth.visible_fraction or 1.0 for one in run.pairs])
        right = np.array([error.add < RIGHT for error in run.errors])
        cells = []
        for low, high in spans:
            inside = (visible >= low) & (visible < high)
            cells.append(f'{100 * right[inside].mean():.0f} % ({inside.sum()})'
                         if inside.any() else '-')
        lines.append(_row(run.title, cells))
    return lines


def _coverage(dataset, runs):
    """Return lines on how often the truth lies within what the covariance says."""
    lines = ['Right poses (ADD below 0.1 d) whose error lies within the ellipsoid of the '
             'covariance that should hold so many of them:', '',
             _row('', ['poses', *[f'{100 * share:.0f} %' for share in COVERED]]),
             _row('---', ['--:'] * (1 + len(COVERED)))]
    for run in runs:
        nees = []
        covariances = {id(one.pose): one.covariance for _, _, one, _ in run.found}
        for (target, truth, result), error in zip(run.pairs, run.errors):
            if error.add < RIGHT:
                pose = result.pose
                errors = [np.concatenate([pose.t_m2c - one.t_m2c, Rotation.from_matrix(
                    pose.R_m2c @ one.R_m2c.T).as_rotvec()])
                    for one in (truth.pose.compose(turn)
                                for turn in dataset.symmetries(
                                    target.object_id).transforms(36))]
                inverse = np.linalg.pinv(covariances[id(pose)])
                nees.append(min(one @ inverse @ one for one in errors))
        lines.append(_row(run.title, [len(nees)] + [
            f'{100 * np.mean(np.array(nees) <= chi2.ppf(share, 6)):.0f} %' if nees else '-'
            for share in COVERED]))
    return lines


def _what_a_robot_gets(dataset, run, threshold, path):
    """Return lines on what is published at several min_scores, and draw the reliability."""
    found = [(error.add < RIGHT, error.score) for error in run.errors
             if np.isfinite(error.score)]
    right, score = np.array(found, float).reshape(-1, 2).T
    numbers = {error.object_id for error in run.errors}
    # Those that are annotated but hardly seen are no targets either.
    asked = set(dataset.targets())
    absent = [own[0] for key, own in best_results(run.results).items()
              if key not in asked and key.object_id in numbers]
    missed, wrong = _lost(run)
    count = len(run.errors)
    _draw_reliability(path, score, right)
    rows = []
    for least in sorted({*LEAST_SCORES, threshold}):
        out, ghosts = score >= least, sum(one.score >= least for one in absent)
        published = out.sum() + ghosts
        shipped = ', as shipped' if least == threshold else ''
        rows.append(_row(f'{least:g}{shipped}', [
            f'{100 * out.sum() / count:.1f} %', ghosts,
            f'{100 * right[out].sum() / published:.1f} %' if published else '-']))
    # The same where each model's own virtual data say that 95 % are right.
    bounds = {number: run.sure[name] for number, name in run.names.items()}
    kept = [error for error in run.errors if error.score >= bounds[error.object_id]]
    sure_ghosts = sum(one.score >= bounds[one.object_id] for one in absent)
    sure = len(kept) + sure_ghosts
    sure_right = sum(error.add < RIGHT for error in kept) / sure if sure else 0.0
    return [
        f'What is published, {run.title}, by `min_score`: the share of the targets; poses for '
        'what is not in the image, or hardly seen and so no target (there are estimates for '
        f'{len(absent)} such pairs of image and object); how many of both together are right:',
        '', _row('`min_score`', ['targets', 'no targets', 'right']), _row('---', ['--:'] * 3),
        *rows, '',
        'With, for each model, the score above which 95 % of its poses on held-back virtual data '
        f'are right ({min(bounds.values()):.2f} to {max(bounds.values()):.2f}), '
        f'{100 * len(kept) / count:.1f} % of the targets and {sure_ghosts} others are published, '
        f'{100 * sure_right:.1f} % of them right.', '',
        f'Lost to the segmenter: {100 * missed / count:.1f} % of the targets have no detection, '
        f'{100 * wrong / count:.1f} % none whose box overlaps the visible part by {BOX_IOU}.', '',
        f'Expected calibration error of the score: {calibration_error(score, right):.3f}.', '',
        f'![Reliability of the score]({path.parent.name}/{path.name})']


def _worst(run, count=10):
    """Return lines on the worst poses: whether the pose stage had a chance."""
    lines = [f'The worst {count} of the best-scored poses, {run.title}: how much of the object is '
             'visible, and how the box overlaps that part.', '',
             _row('image, object', ['ADD', 'visible', 'overlap', "detector's score", 'score']),
             _row('---', ['--:'] * 5)]
    boxes = {id(one.pose): one.instance for _, _, one, _ in run.found}
    for add, (target, truth, result) in _ranked(run)[::-1][:count]:
        instance = boxes[id(result.pose)]
        overlap = ('-' if truth.box_visible is None
                   else f'{box_iou(truth.box_visible, instance.box):.2f}')
        visible = '-' if truth.visible_fraction is None else f'{truth.visible_fraction:.2f}'
        lines.append(_row(f'{target.image_id}, {target.object_id}', [
            f'{add:.1f} d', visible, overlap, f'{instance.score:.2f}',
            f'{result.score:.2f}']))
    return lines


def _ranked(run):
    """Return (ADD, Pair) of what was found, the best first."""
    found = [(error.add, one) for one, error in zip(run.pairs, run.errors)
             if one.found is not None]
    return sorted(found, key=lambda one: (one[0], one[1].target))


def _lost(run):
    """Return the numbers of targets without a detection, and with wrong ones alone."""
    boxes = {}
    for scene_id, image_id, one, _ in run.found:
        boxes.setdefault((scene_id, image_id, one.name), []).append(one.instance.box)
    missed = wrong = 0
    for target, truth, _ in run.pairs:
        own = boxes.get((target.scene_id, target.image_id, run.names[target.object_id]), [])
        missed += not own
        wrong += bool(own) and truth.box_visible is not None and not any(
            box_iou(truth.box_visible, box) >= BOX_IOU for box in own)
    return missed, wrong


def _draw_reliability(path, score, right):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axis = pyplot.subplots(figsize=(4.2, 3.6), dpi=90)
    place = np.minimum((score * 10).astype(int), 9)
    bins = [index for index in range(10) if (place == index).any()]
    axis.plot([0, 1], [0, 1], color='grey', linewidth=1)
    axis.plot([score[place == index].mean() for index in bins],
              [right[place == index].mean() for index in bins], 'o-')
    for index in bins:
        axis.annotate(str((place == index).sum()), (score[place == index].mean(),
                                                    right[place == index].mean()),
                      textcoords='offset points', xytext=(4, -10), fontsize=7)
    axis.set(xlabel='score', ylabel='share within ADD 0.1 d', xlim=(0, 1), ylim=(0, 1),
             title='Reliability on photographs')
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _pictures(dataset, run, models, path, credit):
    """Write best, median and worst poses as one picture; return lines about it."""
    poses = {}
    for scene_id, image_id, one, _ in run.found:
        if one.pose is not None:
            poses[scene_id, image_id, id(one.pose)] = one
    estimator = PoseEstimator.from_directory(models)
    ranked = _ranked(run)
    middle = len(ranked) // 2
    chosen = ranked[:4] + ranked[middle - 2:middle + 2] + ranked[-4:]
    tiles = []
    for add, (target, _, result) in chosen:
        image = dataset.image(target.scene_id, target.image_id)
        height, width = image.shape[:2]
        camera = dataset.camera(target.scene_id, target.image_id, width, height)
        found = poses[target.scene_id, target.image_id, id(result.pose)]
        drawn = draw_poses(image, [found], camera, estimator.models)
        tiles.append(_tile(drawn, found.instance.box, f'ADD {add:.2f} d'))
    rows = [np.hstack(tiles[start:start + 4]) for start in range(0, len(tiles), 4)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return [f'Best, middling and worst (a row each), {run.title}; keypoints red, the '
            f'projected box blue. {credit}', '', f'![Poses]({path.parent.name}/{path.name})']


def _tile(picture, box, text, side=220):
    """Return a square of a picture about a box, with a caption."""
    x0, y0, x1, y1 = box
    half = 0.9 * max(x1 - x0, y1 - y0)
    center = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    scale = side / (2 * half)
    matrix = np.array([[scale, 0, side / 2 - scale * center[0]],
                       [0, scale, side / 2 - scale * center[1]]])
    tile = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_AREA)
    cv2.putText(tile, text, (6, side - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3)
    cv2.putText(tile, text, (6, side - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return tile
