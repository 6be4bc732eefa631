"""What launch_testing runs: the launch file, and a look at what it starts (see test_launch.py)."""

import os
from pathlib import Path
import unittest

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing.actions
import launch_testing.asserts

LAUNCH_FILE = Path(__file__).resolve().parents[1] / 'launch' / 'pipeline.launch.py'


def generate_test_description():
    """Return the pipeline's launch file with what the environment says of its arguments."""
    arguments = {'namespace': 'arm', 'params_file': os.environ['LAUNCH_CASE_PARAMS'],
                 'models': os.environ['LAUNCH_CASE_MODELS'], 'image': '/camera/image_raw',
                 'info': '/camera/camera_info'}
    return LaunchDescription([
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
                                 launch_arguments=arguments.items()),
        launch_testing.actions.ReadyToTest()])


class NodesStart(unittest.TestCase):
    """While they run."""

    def test_nodes_become_ready(self, proc_output):
        """Both say so."""
        for node in ('arm.segmentation_node', 'arm.pose_node'):
            proc_output.assertWaitFor(f'[{node}]: ready: obj_000001', timeout=120)


@launch_testing.post_shutdown_test()
class NodesEnd(unittest.TestCase):
    """After they were told to end."""

    def test_exit_codes(self, proc_info):
        """They end in peace."""
        launch_testing.asserts.assertExitCodes(proc_info)
