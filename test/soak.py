"""
Send images without end through both nodes, and watch memory, threads and files of their process.

    python test/soak.py 20000 docs/soak.md

The images are of 160 x 120 pixels, the masks recorded; the networks are real, but small, and have
learned nothing: what they find is not looked at, but every image has to have a result.

"""

from datetime import date
import json
import os
from pathlib import Path
import sys
import tempfile
import time

from bop_example import run_lengths
import cv2
import numpy as np
from pose_estimator.demo.processes import free_domain
from pose_estimator.devices import processor_name
from pose_estimator.nodes.conversions import image_message, stamp_ns
from pose_estimator.object_model import object_from_mesh
import robot as robots
from robot import camera_info, HEIGHT, picture, Robot, WIDTH
from sensor_msgs.msg import CameraInfo, Image
from test_pipeline import make_checkpoint
from vision_msgs.msg import Detection3DArray

PICTURES = 20
WARM_UP_SHARE = 0.1
GROWTH = 1.05
IN_FLIGHT = 4


def make_files(folder):
    """Write a data set of pictures, a file of detections and a model; return the pictures."""
    scene = folder / 'dataset' / 'test' / '000001'
    (scene / 'rgb').mkdir(parents=True)
    rng, pictures, detections = np.random.default_rng(0), [], []
    for number in range(PICTURES):
        image = picture(bottle=False)
        image[:20] = rng.integers(0, 256, (20, WIDTH, 3))
        pictures.append(image)
        cv2.imwrite(str(scene / 'rgb' / f'{number:06d}.png'), image[..., ::-1])
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[40:80, 20:60] = True
        detections.append({
            'scene_id': 1, 'image_id': number, 'category_id': 1, 'score': 0.9,
            'bbox': [20, 40, 40, 40], 'segmentation': run_lengths(mask), 'time': 0.1})
    (scene / 'scene_camera.json').write_text(json.dumps(
        {str(number): {'cam_K': [150, 0, 79.5, 0, 150, 59.5, 0, 0, 1], 'depth_scale': 1.0}
         for number in range(PICTURES)}))
    (folder / 'detections.json').write_text(json.dumps(detections))
    make_checkpoint(object_from_mesh('builtin:cup', 'm', 'obj_000001')[0]).save(
        folder / 'models' / 'obj_000001.safetensors')
    return pictures


def figures(child):
    """Return resident memory in MB, threads and open files of a process."""
    proc = Path('/proc') / str(child.pid)
    pages = int((proc / 'statm').read_text().split()[1])
    return (pages * os.sysconf('SC_PAGE_SIZE') / 2**20, len(list((proc / 'task').iterdir())),
            len(list((proc / 'fd').iterdir())))


class Soak:
    """
    The nodes in one process, and images for them.

    Parameters
    ----------
    folder : path
        For files.

    """

    def __init__(self, folder):
        pictures = make_files(folder)
        domain = free_domain()
        overrides = [part for topic in ('image', 'camera_info') for part in
                     ('-p', f'qos_overrides./{topic}.subscription.reliability:=reliable')]
        self.process = robots.Process(
            domain, folder / 'log', '-m', 'pose_estimator.nodes.pipeline_node', '--ros-args',
            '-p', 'segmenter:=recorded', '-p', f'detections:={folder / "detections.json"}',
            '-p', f'dataset:={folder / "dataset"}', '-p', f'models:={folder / "models"}',
            *overrides)
        self.robot = Robot(domain)
        self.robot.node.create_subscription(Detection3DArray, 'object_detections', self.on_result,
                                            100)
        self.waiting = {}
        self.latencies = []
        self.data = [image_message(image, 'rgb8', self.robot.header()) for image in pictures]
        self.robot.advertise(Image, 'image')
        self.robot.advertise(CameraInfo, 'camera_info')
        self.robot.wait(lambda: self.robot.publishers['image'].get_subscription_count() == 2,
                        'both nodes')

    def on_result(self, result):
        """Note that an image has its result."""
        sent = self.waiting.pop(stamp_ns(result.header), None)
        if sent is not None:
            self.latencies.append(time.monotonic() - sent)

    def send(self, count):
        """Send images, no more at a time than there is room for; return how many were lost."""
        lost = 0
        for index in range(count):
            header = self.robot.header(later=0.05)
            message = self.data[index % PICTURES]
            message.header = header
            self.waiting[stamp_ns(header)] = time.monotonic()
            self.robot.publish(camera_info=camera_info(header), image=message)
            end = time.monotonic() + 1.0
            while len(self.waiting) >= IN_FLIGHT and time.monotonic() < end:
                self.robot.executor.spin_once(0.02)
            if len(self.waiting) >= IN_FLIGHT:  # overtaken by newer images
                lost += len(self.waiting)
                self.waiting.clear()
        return lost

    def close(self):
        """End the nodes."""
        self.robot.close()
        self.process.kill()


def soak(count, folder):
    """
    Send images and measure.

    Returns
    -------
    rows : list of (images, memory in MB, threads, files)
        From the warm-up on.
    results : int
    seconds : float
    is_clean : bool
        Whether the nodes warned of nothing that they left out.

    """
    rig = Soak(folder)
    try:
        began, lost = time.monotonic(), 0
        warm_up = int(count * WARM_UP_SHARE)
        lost += rig.send(warm_up)
        rows = [(warm_up, *figures(rig.process.child))]
        for _ in range(9):
            lost += rig.send((count - warm_up) // 9)
            rows.append((rows[-1][0] + (count - warm_up) // 9, *figures(rig.process.child)))
        seconds = time.monotonic() - began
        assert rig.process.child.poll() is None, rig.process.output
        return rows, len(rig.latencies), seconds, 'Traceback' not in rig.process.output
    finally:
        rig.close()


def is_flat(rows):
    """Return whether memory grew by less than 5 % after the warm-up, threads and files not."""
    _, memory, threads, files = rows[0]
    return (rows[-1][1] <= GROWTH * memory and rows[-1][2] <= threads and rows[-1][3] <= files)


def document(rows, results, seconds, flat):
    """Return what was measured, as a document."""
    lines = ['# Soak', '', 'Both nodes in one process, images of 160 x 120 pixels with recorded '
             'masks and a small network of random', f'weights: `make soak`, {date.today()}, '
             f'{os.cpu_count()} cores of {processor_name()}, shared with other jobs (load '
             f'{os.getloadavg()[2]:.1f}). {rows[-1][0]} images,', f'{results} results '
             f'({rows[-1][0] - results} overtaken by newer images), {seconds / 60:.0f} minutes. '
             f'Memory, threads and files: {"flat" if flat else "**NOT FLAT**"}.', '',
             '| images | memory (MB) | threads | open files |', '|---|---|---|---|']
    lines += [f'| {images} | {memory:.1f} | {threads} | {files} |'
              for images, memory, threads, files in rows]
    return '\n'.join(lines) + '\n'


def main():
    """Run it and write the document."""
    with tempfile.TemporaryDirectory() as folder:
        rows, results, seconds, is_clean = soak(int(sys.argv[1]), Path(folder))
    flat = is_flat(rows) and is_clean
    Path(sys.argv[2]).write_text(document(rows, results, seconds, flat))
    print(Path(sys.argv[2]).read_text())
    return 0 if flat else 1


if __name__ == '__main__':
    sys.exit(main())
