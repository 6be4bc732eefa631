"""The launch file under launch_testing, where launch is installed; the wheels have none."""

import subprocess
import sys

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from pose_estimator.demo.processes import free_domain
import pytest
from robot import environment, HERE
from soak import make_files
import yaml

RUN = """
import sys
import launch_case
from launch_testing.loader import LoadTestsFromPythonModule
from launch_testing.test_runner import LaunchTestRunner

runner = LaunchTestRunner(LoadTestsFromPythonModule(launch_case))
results = runner.run()
sys.exit(not all(result.wasSuccessful() for result in results.values()))
"""
REASON = 'launch is not installed: it comes with a distribution'


@pytest.fixture(autouse=True)
def needs_launch():
    """Skip where launch or this package is not installed."""
    for name in ('launch', 'launch_ros', 'launch_testing'):
        pytest.importorskip(name, reason=REASON)
    try:
        get_package_share_directory('pose_estimator')
    except PackageNotFoundError:
        pytest.skip('pose_estimator is not installed: build it with colcon')


@pytest.mark.slow
def test_launch_file_starts_and_ends_both_nodes(tmp_path):
    make_files(tmp_path)
    parameters = {'/**/segmentation_node': {'ros__parameters': {
        'segmenter': 'recorded', 'detections': str(tmp_path / 'detections.json'),
        'dataset': str(tmp_path / 'dataset')}}}
    file = tmp_path / 'parameters.yaml'
    file.write_text(yaml.safe_dump(parameters))
    step = subprocess.run(
        [sys.executable, '-c', RUN], cwd=HERE, capture_output=True, text=True, timeout=300,
        env={**environment(free_domain()), 'LAUNCH_CASE_PARAMS': str(file),
             'LAUNCH_CASE_MODELS': str(tmp_path / 'models')})
    assert step.returncode == 0, step.stdout + step.stderr


def test_arguments_are_told_with_their_meaning():
    """What `ros2 launch pose_estimator pipeline.launch.py --show-args` prints."""
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    file = HERE.parent / 'launch' / 'pipeline.launch.py'
    description = PythonLaunchDescriptionSource(str(file)).get_launch_description(LaunchContext())
    arguments = description.get_launch_arguments()
    assert {'image', 'info', 'namespace', 'params_file', 'device', 'models', 'image_transport',
            'target_frame', 'autostart', 'use_sim_time', 'rviz', 'fixed_frame'} == \
        {one.name for one in arguments}
    assert all(one.description.endswith('.') for one in arguments)
