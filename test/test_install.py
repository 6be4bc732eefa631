"""The package as colcon installs it: everything is found with the source out of reach."""

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('colcon_ros')
rclpy = pytest.importorskip('rclpy')
from rcl_interfaces.srv import ListParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SOURCE = (
    'config', 'launch', 'models', 'msgs', 'pose_estimator', 'requirements', 'resource',
    'LICENSE', 'package.xml', 'setup.cfg', 'setup.py')
SHARED = ('config', 'launch', 'models')
NODES = ('segmentation_node', 'pose_node')


def copy_source(folder):
    """Copy what colcon needs of the checkout, without what runs leave behind."""
    folder.mkdir(parents=True)
    for name in SOURCE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(
                path, folder / name,
                ignore=shutil.ignore_patterns('__pycache__', '*.resume'))
        elif path.exists():
            shutil.copy(path, folder / name)


def environment():
    """Return a shell's environment after sourcing ROS and activating the environment."""
    prefix = Path(sys.prefix)
    values = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    values['PATH'] = os.pathsep.join((str(prefix / 'bin'), values['PATH']))
    if (prefix / 'share' / 'rclpy').is_dir():
        values['AMENT_PREFIX_PATH'] = str(prefix)
    else:
        values['PYTHONPATH'] = os.environ.get('PYTHONPATH', '')
    return values


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
    """Build the package in a workspace of its own, then move the source away."""
    folder = tmp_path_factory.mktemp('workspace')
    copy_source(folder / 'src' / 'pose_estimator')
    step = subprocess.run(
        [sys.executable, '-m', 'colcon', 'build'], cwd=folder, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert step.returncode == 0, step.stdout
    (folder / 'src').rename(folder / 'moved_away')
    return folder


def test_only_this_package_is_built(workspace):
    # The message packages are for machines without a distribution; colcon leaves them alone.
    built = {path.name for path in (workspace / 'install').iterdir() if path.is_dir()}
    assert built == {'pose_estimator'}


def test_config_launch_and_models_are_installed(workspace):
    share = workspace / 'install' / 'pose_estimator' / 'share' / 'pose_estimator'
    source = workspace / 'moved_away' / 'pose_estimator'
    for name in SHARED:
        there = {path.relative_to(source) for path in (source / name).rglob('*')}
        assert there, f'{name}/ is empty'
        assert there == {path.relative_to(share) for path in (share / name).rglob('*')}


def test_scripts_start_through_env(workspace):
    scripts = workspace / 'install' / 'pose_estimator' / 'lib' / 'pose_estimator'
    assert {'segmentation_node', 'pose_node', 'pipeline', 'dataset_camera'} <= {
        path.name for path in scripts.iterdir()}
    for script in scripts.iterdir():
        assert script.read_text().startswith('#!/usr/bin/env python3\n'), script


def answers(robot, name):
    """Ask a node for its parameters: it answers once it has loaded its models and works."""
    client = robot.create_client(ListParameters, f'/{name}/list_parameters')
    reply = client.call_async(ListParameters.Request())
    executor = SingleThreadedExecutor(context=robot.context)
    executor.add_node(robot)
    executor.spin_until_future_complete(reply, timeout_sec=1.0)
    executor.remove_node(robot)
    robot.destroy_client(client)
    return reply.done()


def test_both_nodes_start_with_the_source_gone(workspace):
    processes = {}
    context = rclpy.Context()
    rclpy.init(context=context)
    robot = rclpy.create_node('robot', context=context)
    try:
        for name in NODES:
            script = f'install/pose_estimator/lib/pose_estimator/{name}'
            with open(workspace / f'{name}.log', 'w') as log:
                processes[name] = subprocess.Popen(
                    ['sh', '-c', f'. install/setup.sh && exec {script}'], cwd=workspace,
                    stdout=log, stderr=log, env={**environment(), 'OMP_NUM_THREADS': '1'})
        deadline = time.monotonic() + 120
        waiting = list(NODES)
        while waiting:
            for name, process in processes.items():
                assert process.poll() is None, (workspace / f'{name}.log').read_text()
            assert time.monotonic() < deadline, f'{waiting} give no answer'
            waiting = [name for name in waiting if not answers(robot, name)]
    finally:
        robot.destroy_node()
        rclpy.shutdown(context=context)
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for name, process in processes.items():
        assert process.returncode == 0, (workspace / f'{name}.log').read_text()
