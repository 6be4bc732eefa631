"""
The main job, shown: a virtual camera, segmentation_node and pose_node, and are they right.

    python -m pose_estimator demo
    python -m pose_estimator demo --input mask --seed 7
    python -m pose_estimator demo --dataset lmo_dev --detections mask_rcnn_detections.json

Ends by itself in about a minute, with exit code 0 if the poses were right and 1 if not; of a
data set it tells how many were right, with exit code 0.

"""

import os
from pathlib import Path
import signal
import sys
import time

import numpy as np
from scipy.spatial.transform import Rotation

from .picture import AnnotatedPicture
from .processes import domain_variables, free_domain, Nodes
from .scene import DemoScene, DURATION, NAMES
from .verdict import DEGREES, DISTANCE_SHARE, FOUND_SHARE, Judge, RIGHT_SHARE, VISIBLE
from .. import assets
from ..errors import InputError
from ..object_model import load_object

RATE = 5.0  # images per second
START_SECONDS = 180  # until the first image, on a slow machine with a cold disk
SLACK_SECONDS = 60
LEAST_IMAGES = 0.8  # of the scene's, else there is nothing to judge
LATE_SECONDS = 3.0  # what has not come so long after the last image will not come
REDRAW_SECONDS = 0.5
TABLE_SECONDS = 5.0  # between tables where the output is no terminal
PICTURE_VISIBLE = 0.75
COLUMNS = '{:8} {:10} {:>22} {:>19} {:>6} {:>8} {:>22} {:>9}'
TITLES = ('object', 'instance', 'position x y z (m)', 'rotation (deg)', 'score', 'visible',
          'error', 'latency')


def add_arguments(parser):
    """Add the command's arguments."""
    parser.add_argument('--input', choices=('rgb_mask', 'mask'), default='rgb_mask',
                        help='what the networks see (default: rgb_mask)')
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='weights (default: those that the package ships)')
    parser.add_argument('--seed', type=int, default=2020, help="the scene's (default: 2020)")
    parser.add_argument('--dataset', type=Path, metavar='DIR',
                        help='play the photographs of this BOP data set instead, with the masks '
                        'of --detections')
    parser.add_argument('--detections', type=Path, metavar='FILE',
                        help="a segmenter's output on them, COCO-style JSON as BOP has it")
    parser.add_argument('--output', type=Path, default=Path('out/demo.png'), metavar='FILE',
                        help='annotated picture (default: out/demo.png); the log of the nodes '
                        'is written beside it')


def run(args):
    """Run the demo; return the exit code."""
    try:
        from ..nodes.demo_listener import DemoListener
    except ImportError as error:
        raise InputError(f'ROS 2: expected it in this Python environment, got {error}; see '
                         'docs/installation.md') from error
    if args.seed < 0:
        raise InputError(f'--seed: expected 0 or more, got {args.seed}')
    domain = free_domain()
    os.environ.update(domain_variables(domain))
    # A plain kill, too, has to end the nodes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.dataset is not None:
        from .real import play
        return play(args, domain)
    models = (args.models or assets.find('models')).resolve()
    objects = assets.find('config') / 'objects'
    judge = Judge({name: load_object(objects / f'{name}.yaml')[0] for name in NAMES}, args.input)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    log = args.output.with_suffix('.log')
    print(DemoScene(args.seed).describe())
    print(f'Starting demo_camera, segmentation_node and pose_node (input: {args.input}; ROS '
          f'domain {domain}, this machine alone; log: {log}); images come when the networks are '
          'loaded and the scene is drawn, after some 20 s', flush=True)
    nodes = Nodes(domain, log, 'demo_camera')
    try:
        nodes.start('segmentation_node', weights=models / 'segmenter.safetensors')
        nodes.start('pose_node', models=models, input=args.input,
                    objects=f'[{", ".join(NAMES)}]')
        # Both nodes hear the image: the pose node for its annotated picture at least.
        nodes.start('demo_camera', seed=args.seed, rate=RATE, wait_for_subscribers=2)
        listener = DemoListener(domain)
        try:
            return _watch(nodes, listener, judge, args.output)
        finally:
            listener.close()
    finally:
        nodes.stop()


def _watch(nodes, listener, judge, output):
    """Listen until the camera has played its scene; report and return the exit code."""
    listener.watch(True)
    table = LiveTable(sys.stdout)
    picture = AnnotatedPicture(listener, lambda stamp: _rating(listener, judge, stamp),
                               (len(NAMES), PICTURE_VISIBLE))
    end, playing = time.monotonic() + START_SECONDS, False
    while nodes.is_playing():
        listener.listen(REDRAW_SECONDS)
        if listener.truths:
            if not playing:
                end, playing = time.monotonic() + DURATION + SLACK_SECONDS, True
            table.show(listener, judge)
            picture.choose()
        if time.monotonic() > end:
            raise InputError(f'demo: expected {"its end" if playing else "images"} by now, got '
                             'none; is this machine very busy? Else see the log')
    listener.listen(LATE_SECONDS)
    picture.choose()
    picture.write(output)
    return _report(judge.summarise(listener.truths, listener.findings), len(listener.truths))


class LiveTable:
    """The newest poses, drawn over the older ones in a terminal, now and then elsewhere."""

    def __init__(self, stream):
        self._stream = stream
        self._last = -TABLE_SECONDS
        self._height = 0

    def show(self, listener, judge):
        """Show the newest image whose poses have come."""
        stamps = set(listener.truths) & set(listener.detections)
        now, live = time.monotonic(), self._stream.isatty()
        if not stamps or (not live and now - self._last < TABLE_SECONDS):
            return
        stamp, first = max(stamps), min(listener.truths)
        lines = [f'image {len(listener.truths)}, second {(stamp - first) / 1e9:.1f}',
                 COLUMNS.format(*TITLES)]
        truth = listener.truths[stamp]
        for name in sorted(truth.poses):
            findings = [one for one in listener.findings_at(stamp) if one.name == name]
            lines += [_row(one, truth, judge) for one in findings] or [
                COLUMNS.format(name, '-', '-', '-', '-', f'{100 * truth.visible[name]:.0f} %',
                               '-', '-')]
        if live and self._height:
            self._stream.write(f'\x1b[{self._height}F\x1b[J')
        self._stream.write('\n'.join(lines) + ('\n' if live else '\n\n'))
        self._stream.flush()
        self._last, self._height = now, len(lines)


def _row(finding, truth, judge):
    error = judge.measure(finding, truth)
    turn = Rotation.from_matrix(finding.pose.R_m2c).as_rotvec(degrees=True)
    return COLUMNS.format(
        finding.name, finding.instance,
        ' '.join(f'{value:7.3f}' for value in finding.pose.t_m2c),
        ' '.join(f'{value:6.1f}' for value in turn), f'{finding.score:.2f}',
        f'{100 * truth.visible[finding.name]:.0f} %',
        f'{1000 * error.metres:.0f} mm {100 * error.share:.1f} % {error.degrees:.1f} deg',
        f'{1000 * finding.latency:.0f} ms')


def _rating(listener, judge, stamp):
    """Return how much is to be seen in the annotated picture of an image."""
    truth = listener.truths[stamp]
    right = {one.name for one in listener.findings_at(stamp)
             if judge.measure(one, truth).is_right}
    return len(right), min(truth.visible.values())


def _report(summaries, images):
    """Print the verdict on so many images; return the exit code."""
    if images < LEAST_IMAGES * RATE * DURATION:
        print(f'\nOnly {images} of {RATE * DURATION:.0f} images came: no verdict. Is this machine '
              'very busy?')
        return 1
    columns = '{:8} {:>7} {:>7} {:>7} {:>26} {:>15}  {}'
    print(f'\nFrames in which at least {100 * VISIBLE:.0f} % of the object is visible; right '
          f'is within {100 * DISTANCE_SHARE:.0f} % of its distance and {DEGREES:.0f} degrees:')
    print(columns.format('object', 'frames', 'found', 'right', 'median error', 'median latency',
                         ''))
    for one in summaries:
        found = one.found / max(one.frames, 1)
        right = one.right / max(len(one.errors), 1)
        error = latency = '-'
        if one.errors:
            error = (f'{1000 * np.median([each.metres for each in one.errors]):.0f} mm '
                     f'{100 * np.median([each.share for each in one.errors]):.1f} % '
                     f'{np.median([each.degrees for each in one.errors]):.1f} deg')
            latency = f'{1000 * np.median([each.latency for each in one.findings]):.0f} ms'
        print(columns.format(one.name, one.frames, f'{100 * found:.0f} %', f'{100 * right:.0f} %',
                             error, latency, 'good' if one.passed else 'BAD'))
    passed = all(one.passed for one in summaries)
    print(f'{"The poses were right" if passed else "The poses were NOT right"} (wanted: each '
          f'object found in {100 * FOUND_SHARE:.0f} % of the frames, '
          f'{100 * RIGHT_SHARE:.0f} % of the poses right).')
    return 0 if passed else 1
