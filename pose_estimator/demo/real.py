"""The demo on photographs: a data set, played as a camera, and how many poses were right."""

import time

from .picture import AnnotatedPicture
from .processes import Nodes
from .. import assets
from ..bop import BopDataset, Result
from ..errors import InputError
from ..evaluate import format_table, measure, median_errors, names_by_number, score_table
from ..pipeline import PoseEstimator

RATE = 1.25  # images per second: with six objects in doubt the pose stage does not keep up with 2
START_SECONDS = 180
SLACK_SECONDS = 60
LATE_SECONDS = 3.0
TELL_SECONDS = 5.0


def play(args, domain):
    """Play the data set in a ROS domain, print what came out, and return the exit code."""
    if args.detections is None:
        raise InputError('--dataset: expected --detections beside it, got none')
    results, targets, picture = run_nodes(
        args.dataset, args.detections, args.models or assets.find('models'), args.input,
        args.output.with_suffix('.log'), domain)
    errors = measure(BopDataset(args.dataset), results, targets)
    print(format_table(score_table(errors)))
    metres, degrees = median_errors(errors)
    if metres is not None:
        print(f'Median error of the published poses: {100 * metres:.1f} cm, {degrees:.1f} deg')
    picture.write(args.output)
    return 0


def run_nodes(dataset, detections, models, network_input, log, domain):
    """
    Start the nodes, play the data set, and listen.

    Parameters
    ----------
    dataset, detections, models, log : path
        BOP data set; a segmenter's output on it; folder of weights; file for the nodes' output.
    network_input : str
        'rgb_mask' or 'mask'.
    domain : int
        ROS domain.

    Returns
    -------
    results : list of bop.Result
        What was published, by image.
    targets : list of bop.Target
        The data set's targets of which there are models.
    picture : AnnotatedPicture

    """
    from ..nodes.demo_listener import DatasetListener
    source = BopDataset(dataset)
    names = names_by_number(PoseEstimator.from_directory(models, network_input).models, source)
    targets = [one for one in source.targets() if one.object_id in names]
    if not targets:
        raise InputError(f'{models}: expected models with the bop_id of an object of {dataset}, '
                         'got none; train with --bop-id')
    log.parent.mkdir(parents=True, exist_ok=True)
    images = len(source.images())
    print(f'Playing {images} images of {source.name} to segmentation_node (recorded masks) and '
          f'pose_node (input: {network_input}; {", ".join(sorted(names.values()))}; ROS domain '
          f'{domain}, this machine alone; log: {log})', flush=True)
    nodes = Nodes(domain, log, 'dataset_camera')
    try:
        mapped = ', '.join(f'obj_{number:06d}={name}' for number, name in sorted(names.items()))
        nodes.start('segmentation_node', segmenter='recorded', dataset=source.path.resolve(),
                    detections=detections.resolve(), class_map=f'[{mapped}]', min_score=0.0)
        # BOP counts the best estimate, however doubtful.
        nodes.start('pose_node', models=models.resolve(), input=network_input, min_score=0.0,
                    objects=f'[{", ".join(sorted(names.values()))}]')
        nodes.start('dataset_camera', dataset=source.path.resolve(), rate=RATE,
                    wait_for_subscribers=2)
        listener = DatasetListener(domain)
        try:
            picture = _listen(nodes, listener, images)
        finally:
            listener.close()
    finally:
        nodes.stop()
    numbers = {name: number for number, name in names.items()}
    results = []
    for stamp, found in listener.findings.items():
        if stamp in listener.truths:
            scene_id, image_id = listener.truths[stamp]
            results += [Result(scene_id, image_id, numbers[one.name], one.score, one.pose,
                               one.latency) for one in found]
    return results, targets, picture


def _listen(nodes, listener, images):
    """Listen until all images have been played; return the annotated picture."""
    def rate(stamp):
        return sum(one.score for one in listener.findings_at(stamp))

    picture = AnnotatedPicture(listener, rate, float('inf'))
    listener.watch(True)
    end = time.monotonic() + START_SECONDS + images / RATE + SLACK_SECONDS
    told = time.monotonic()
    while nodes.is_playing():
        listener.listen(0.5)
        picture.choose()
        now = time.monotonic()
        if listener.truths and now - told > TELL_SECONDS:
            told = now
            print(f'{len(listener.truths)} of {images} images, '
                  f'{sum(map(len, listener.detections.values()))} poses', flush=True)
        if now > end:
            raise InputError('dataset camera: expected its end by now, got none; is this machine '
                             'very busy? Else see the log')
    listener.listen(LATE_SECONDS)
    picture.choose()
    return picture
