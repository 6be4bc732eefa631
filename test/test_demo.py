"""`make demo`, as a newcomer runs it, and what becomes of its processes."""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600


def start(output, *options):
    """Start the demo with its output in a pipe."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(
        [sys.executable, '-m', 'pose_estimator', 'demo', '--output', str(output), *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def nodes_of(log):
    """Return the numbers of the processes that write to the demo's log."""
    found = []
    for process in Path('/proc').iterdir():
        if process.name.isdigit():
            try:
                if (process / 'fd' / '1').resolve() == log.resolve():
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def wait_until(condition):
    """Wait until a condition holds; return whether it did."""
    end = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
def test_demo_finds_the_right_poses(tmp_path):
    output = tmp_path / 'demo.png'
    child = start(output)
    text, _ = child.communicate(timeout=SECONDS)
    assert child.returncode == ('The poses were right' not in text), text
    # The command's own verdict asks for 80 % and 90 %; a machine that does other work besides
    # loses frames, so less is asked for here.
    rows = re.findall(r'^(\w+) +\d+ +(\d+) % +(\d+) % .*(?:good|BAD)$', text, re.MULTILINE)
    assert {name for name, _, _ in rows} == {'book', 'bottle', 'cup'}, text
    assert all(int(found) >= 60 and int(right) >= 80 for _, found, right in rows), text
    assert '\x1b' not in text, 'no terminal, no control codes'
    assert 'object   instance' in text and 'cup_1' in text
    picture = cv2.imread(str(output))
    blue, green, red = picture.reshape(-1, 3).T.astype(int)
    assert ((red > 200) & (green < 80) & (blue < 80)).sum() > 30, 'keypoints are red'
    assert ((blue > 200) & (red < 80) & (green < 130)).sum() > 300, 'boxes are blue'
    assert not nodes_of(output.with_suffix('.log'))


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_demo_ends_its_nodes_whatever_happens(how, tmp_path):
    output = tmp_path / 'demo.png'
    log = output.with_suffix('.log')
    child = start(output)
    try:
        # The children need a moment until they are Python; an early signal must do, too.
        assert wait_until(lambda: child.poll() is not None or len(nodes_of(log)) == 3)
        assert child.poll() is None, child.stdout.read()
        child.send_signal(how)
        text, _ = child.communicate(timeout=60)
        assert child.returncode != 0
        assert 'Traceback' not in text
        assert wait_until(lambda: not nodes_of(log))
    finally:
        child.kill()


@pytest.mark.slow
def test_demo_with_missing_weights_ends_with_one_line(tmp_path):
    child = start(tmp_path / 'demo.png', '--models', str(tmp_path))
    text, _ = child.communicate(timeout=SECONDS)
    assert child.returncode == 2
    last = text.strip().splitlines()[-1]
    assert last.startswith('error: ') and str(tmp_path) in last
    assert 'Traceback' not in text


@pytest.mark.parametrize('loop', [False, True])
def test_scene_is_drawn_before_it_is_played(loop, monkeypatch):
    rclpy = pytest.importorskip('rclpy')
    from pose_estimator.nodes import demo_camera
    may_draw = threading.Event()

    class Scene:
        camera, duration = None, 4.0

        def __init__(self, seed):
            pass

        def describe(self):
            return 'a scene'

        def frame(self, moment):
            assert may_draw.wait(SECONDS)
            return SimpleNamespace(image=moment)

    monkeypatch.setattr(demo_camera, 'DemoScene', Scene)
    rclpy.init(args=['--ros-args', '-p', 'rate:=2.0', '-p', f'loop:={str(loop).lower()}'])
    try:
        node = demo_camera.DemoCamera()
        assert not node.is_ready()
        may_draw.set()
        assert wait_until(node.is_ready)
        for _ in range(1 + loop):
            assert [image for image, *_ in node.pictures()] == [0.5 * k for k in range(8)]
        node.destroy_node()
    finally:
        rclpy.shutdown()
