"""
Estimate poses in pictures or a video, without ROS.

    python -m pose_estimator run photos/ --camera camera.yaml --output annotated/
    python -m pose_estimator run video.mp4 --camera camera.yaml --output annotated.mp4

writes annotated pictures or an annotated video, and poses.json and poses.csv beside them.
"""

from collections import Counter
import csv
import glob
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from .camera_file import load_camera
from .drawing import draw_poses
from .errors import InputError

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
# Suffix -> FOURCC that every build of OpenCV can write.
VIDEO_CODECS = {'.mp4': 'mp4v', '.m4v': 'mp4v', '.mov': 'mp4v', '.mkv': 'mp4v', '.avi': 'MJPG'}
VIDEO_SUFFIXES = (*VIDEO_CODECS, '.webm', '.mpg', '.mpeg', '.wmv', '.ogv')
CSV_COLUMNS = ('image', 'object', 'instance', 'score', 'x', 'y', 'z', 'qx', 'qy', 'qz', 'qw',
               'reprojection_error', 'reason')


class Frame(NamedTuple):
    """One picture of the input."""

    name: str
    image: np.ndarray  # (height, width, 3) uint8 RGB
    scene_id: int
    image_id: int


class Pictures:
    """
    Picture files, one after another.

    Parameters
    ----------
    paths : sequence of path

    """

    rate = 10.0  # of a video made of them, pictures a second

    def __init__(self, paths):
        self.paths = [Path(path) for path in paths]

    def __len__(self):
        return len(self.paths)

    def __iter__(self):
        stems = Counter(path.stem for path in self.paths)
        for index, path in enumerate(self.paths):
            # A calibration counts pixels as stored, whatever a photo's header says is up.
            image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is None:
                raise InputError(f'{path}: expected an image, got a file that cannot be read '
                                 'as one')
            scene = path.resolve().parent.parent.name
            name = path.stem if stems[path.stem] == 1 else f'{index:06d}_{path.stem}'
            yield Frame(name, cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                        int(scene) if scene.isdigit() else 0,
                        int(path.stem) if path.stem.isdigit() else index)


class Video:
    """
    Frames of a video file.

    Parameters
    ----------
    path : path

    """

    def __init__(self, path):
        self.paths = [Path(path)]
        capture = cv2.VideoCapture(str(path))
        # The calibration holds for the pixels as they were taken.
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        if not capture.isOpened():
            raise InputError(f'{path}: expected a video, got a file that OpenCV cannot open')
        self.rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()

    def __len__(self):
        return self._count  # what the header says

    def __iter__(self):
        capture = cv2.VideoCapture(str(self.paths[0]))
        try:
            index = 0
            while True:
                is_read, image = capture.read()
                if not is_read:
                    break
                yield Frame(f'{index:06d}', cv2.cvtColor(image, cv2.COLOR_BGR2RGB), 0, index)
                index += 1
        finally:
            capture.release()
        if not index:
            raise InputError(f'{self.paths[0]}: expected a video with frames, got none')


def open_input(arguments):
    """
    Return the Pictures or the Video that command line arguments name.

    Parameters
    ----------
    arguments : sequence of str
        Files, folders or glob patterns of pictures, or one video.

    """
    paths = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(one for one in path.iterdir()
                            if one.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise InputError(f'{path}: expected a folder of images '
                                 f'({", ".join(IMAGE_SUFFIXES)}), got none in it')
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            matches = sorted(map(Path, glob.glob(argument, recursive=True)))
            if not matches:
                raise InputError(f'{argument}: expected images or a video, got no such file')
            paths += [one for one in matches if one.is_file()]
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos and len(paths) > 1:
        raise InputError(f'expected images or one video, got {len(paths)} files, among them '
                         f'{videos[0]}')
    return Video(videos[0]) if videos else Pictures(paths)


class PictureFolder:
    """Writes pictures into a folder, which it makes."""

    def __init__(self, path):
        self.folder = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f'{path}: expected a folder to write into, got '
                             f'{error.strerror}') from error

    def refuse(self, paths):
        """Refuse to write over one of the files that are read."""
        if any(path.resolve().parent == self.folder.resolve() for path in paths):
            raise InputError(f'{self.folder}: expected another folder than that of the images')

    def path_of(self, file_name):
        """Return where a file of results goes."""
        return self.folder / file_name

    def write(self, name, picture):
        """Write one RGB picture."""
        path = self.folder / f'{name}.png'
        if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise InputError(f'{path}: cannot be written')

    def close(self):
        """Do nothing: every picture is complete."""


class VideoFile:
    """Writes pictures into a video."""

    def __init__(self, path, rate):
        self._path, self._rate = path, rate
        self._writer = None
        if not path.parent.is_dir():
            raise InputError(f'{path}: expected an existing folder to write into')

    def refuse(self, paths):
        """Refuse to write over one of the files that are read."""
        if any(path.resolve() == self._path.resolve() for path in paths):
            raise InputError(f'{self._path}: expected another file than the input')

    def path_of(self, file_name):
        """Return where a file of results goes: poses.json to VIDEO.poses.json."""
        return self._path.with_suffix(f'.{file_name}')

    def write(self, name, picture):
        """Append one RGB picture."""
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[self._path.suffix.lower()])
            size = picture.shape[1], picture.shape[0]
            self._writer = cv2.VideoWriter(str(self._path), codec, self._rate, size)
            if not self._writer.isOpened():
                raise InputError(f'{self._path}: OpenCV cannot write this video; name a folder '
                                 'for pictures instead')
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self):
        """Complete the file."""
        if self._writer is not None:
            self._writer.release()


def open_output(path, rate):
    """Return the VideoFile or the PictureFolder that a path names."""
    if path.suffix.lower() in VIDEO_CODECS:
        return VideoFile(path, rate)
    return PictureFolder(path)


def estimate_frames(estimator, instances_of, frames, camera, output, say=print):
    """
    Estimate, print and draw the poses of all frames.

    Parameters
    ----------
    estimator : PoseEstimator
        Of the objects.
    instances_of : function
        Frame -> list of Instance.
    frames : iterable of Frame
        Pictures or Video.
    camera : PinholeCamera
        The one that took all of them.
    output : PictureFolder or VideoFile
        Where annotated pictures go.
    say : function
        Takes each line of text.

    Returns
    -------
    records : list of dict
        {'image': name, 'objects': [dict]}, as poses.json holds them.

    """
    records = []
    for frame in frames:
        height, width = frame.image.shape[:2]
        if (width, height) != (camera.width, camera.height):
            raise InputError(f'{frame.name}: expected {camera.width} x {camera.height} pixels, as '
                             f'the calibration says, got {width} x {height}')
        poses = estimator.estimate(frame.image if estimator.needs_image else None,
                                   instances_of(frame), camera)
        records.append({'image': frame.name, 'objects': [_record(one) for one in poses]})
        for one in records[-1]['objects']:
            say(_line(frame.name, one))
        if not poses:
            say(f'{frame.name}  no object found')
        output.write(frame.name, draw_poses(frame.image, poses, camera, estimator.models))
    return records


def _record(found):
    """Return an object pose as plain numbers: metres, camera frame, quaternion x y z w."""
    record = {'object': found.name, 'instance': found.instance.id,
              'score': round(float(found.score), 4),
              'box': np.round(found.instance.box, 1).tolist()}
    if found.pose is None:
        return {**record, 'reason': found.reason}
    record.update(position=np.round(found.pose.t_m2c, 6).tolist(),
                  quaternion=np.round(found.pose.quaternion, 6).tolist(),
                  reprojection_error=round(float(found.reprojection_error), 3))
    if found.covariance is not None:
        record['covariance'] = np.asarray(found.covariance).ravel().tolist()
    return record


def _line(image, record):
    start = f'{image}  {record["object"]} {record["instance"]}'
    if 'position' not in record:
        return f'{start}  no pose: {record["reason"]}'
    position = ' '.join(f'{value:7.3f}' for value in record['position'])
    quaternion = ' '.join(f'{value:6.3f}' for value in record['quaternion'])
    return (f'{start}  score {record["score"]:.2f}  position {position} m  '
            f'quaternion {quaternion}')


def write_records(records, json_path, csv_path):
    """Write what estimate_frames returned as JSON and as a table."""
    json_path.write_text(json.dumps(records, indent=1) + '\n')
    with open(csv_path, 'w', newline='') as stream:
        rows = csv.writer(stream, lineterminator='\n')
        rows.writerow(CSV_COLUMNS)
        for record in records:
            for one in record['objects']:
                rows.writerow([record['image'], one['object'], one['instance'], one['score'],
                               *one.get('position', [''] * 3), *one.get('quaternion', [''] * 4),
                               one.get('reprojection_error', ''), one.get('reason', '')])


def add_arguments(parser):
    """Declare the command's options."""
    parser.add_argument('sources', nargs='+', metavar='IMAGES|VIDEO',
                        help='image files, folders of images, quoted glob patterns, or one video')
    parser.add_argument('--camera', type=Path, metavar='YAML', required=True,
                        help='calibration as camera_calibration writes it')
    parser.add_argument('--rectified', action='store_true',
                        help='the images are rectified: use projection_matrix, no distortion')
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='folder of trained models (default: those of the package)')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--segmenter', metavar='FILE|coco|prints',
                        help="trained segmenter, coco for torchvision's Mask R-CNN, or prints for "
                        'none but the prints on the objects (default: segmenter.safetensors of '
                        'the models)')
    source.add_argument('--detections', type=Path, metavar='FILE',
                        help="a segmenter's output instead, COCO-style JSON; the image number is "
                        'that in the file name, or that of the frame, and the scene number that '
                        'of the folder in SCENE/rgb/IMAGE.png, else 0')
    parser.add_argument('--class-map', nargs='+', metavar='CLASS=OBJECT',
                        help="which of the segmenter's classes is which object (default: by name)")
    parser.add_argument('--input', choices=('rgb_mask', 'mask'), default='rgb_mask',
                        help='what the network sees (default: %(default)s)')
    parser.add_argument('--min-score', type=float, metavar='0..1',
                        help='poses below count as none (default: that of the estimator)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, ... (default: %(default)s)')
    parser.add_argument('--output', type=Path, metavar='DIR|VIDEO', required=True,
                        help=f'folder for pictures, or a video ({", ".join(VIDEO_CODECS)})')


def run(args):
    """Carry out the command; return the exit code."""
    camera = load_camera(args.camera, args.rectified)
    frames = open_input(args.sources)
    output = open_output(args.output, frames.rate)
    output.refuse(frames.paths)
    models = args.models
    if models is None:
        from . import assets
        models = assets.find('models')
    from .pipeline import PoseEstimator
    options = {} if args.min_score is None else {'min_score': args.min_score}
    estimator = PoseEstimator.from_directory(models, network_input=args.input,
                                             device=args.device, **options)
    instances_of = _segmentation(args, models, estimator)
    progress = tqdm(frames, unit='image', disable=None)
    try:
        records = estimate_frames(estimator, instances_of, progress, camera, output,
                                  lambda line: tqdm.write(line))
    finally:
        output.close()
    write_records(records, output.path_of('poses.json'), output.path_of('poses.csv'))
    found = sum('position' in one for record in records for one in record['objects'])
    print(f'{found} poses in {len(records)} images, written to {output.path_of("poses.json")} '
          f'and, drawn, to {args.output}')
    return 0


def _segmentation(args, models, estimator):
    """Return the function Frame -> list of Instance that the arguments name."""
    if args.detections is not None:
        from .evaluate import names_by_number
        from .segmentation.recorded import RecordedSegmenter
        recorded = RecordedSegmenter(args.detections, names_by_number(estimator.models))
        return lambda frame: recorded.instances(frame.scene_id, frame.image_id,
                                                *frame.image.shape[:2])
    from .confirmed import ConfirmedSegmenter
    from .segmentation.mask_rcnn import MaskRCNNSegmenter
    options = {'device': args.device, 'class_map': _class_map(args.class_map)}
    if args.segmenter == 'coco':
        segmenter = MaskRCNNSegmenter.coco(**options)
    elif args.segmenter == 'prints':
        from .prints import PrintSegmenter
        segmenter = PrintSegmenter.from_directory(models)
    else:
        path = args.segmenter or Path(models) / 'segmenter.safetensors'
        segmenter = ConfirmedSegmenter.from_checkpoint(path, models, **options)
    return lambda frame: segmenter.segment(frame.image)


def _class_map(pairs):
    if pairs is None:
        return None
    wrong = [pair for pair in pairs if pair.count('=') != 1]
    if wrong:
        raise InputError(f'--class-map: expected CLASS=OBJECT, got {wrong[0]}')
    return dict(pair.split('=') for pair in pairs)
