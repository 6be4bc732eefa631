"""Documents, parameter file and launch file agree with the nodes."""

import ast
from pathlib import Path
import re

from pose_estimator.nodes import (
    collision_objects, dataset_camera, demo_camera, grasp_frame, pose_node, segmentation_node)
from pose_estimator.nodes.parameters import markdown
from pose_estimator.pipeline import MIN_SCORE
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize('node', [segmentation_node, pose_node, dataset_camera, demo_camera,
                                  collision_objects, grasp_frame])
def test_parameters_are_documented(node):
    expected = markdown(node.PARAMETERS)
    assert expected in (ROOT / 'docs' / 'topics.md').read_text(), \
        f'docs/topics.md should hold this table:\n{expected}'


@pytest.mark.parametrize('node', [segmentation_node, pose_node])
def test_parameter_file_holds_all_defaults(node):
    name = node.__name__.rpartition('.')[2]
    values = yaml.safe_load((ROOT / 'config' / 'pipeline.yaml').read_text())
    assert values[f'/**/{name}']['ros__parameters'] == \
        {one.name: one.default for one in node.PARAMETERS}


def test_comparison_points_to_tests_that_exist():
    text = (ROOT / 'docs' / 'comparison.md').read_text()
    tests = {path.name: path.read_text() for path in (ROOT / 'test').glob('*.py')}
    files = re.findall(r'test_\w+\.py', text)
    named = re.findall(r'`(test_\w+)`', text)
    assert len(files) > 10 and len(named) > 8
    assert set(files) <= set(tests)
    for name in named:
        assert any(f'def {name}(' in source for source in tests.values()), name
    make = (ROOT / 'Makefile').read_text()
    for target in re.findall(r'`make (\w+)`', text):
        assert f'\n{target}: ' in make, target


def test_pose_node_withholds_the_same_poses_as_the_pipeline():
    default = {one.name: one.default for one in pose_node.PARAMETERS}
    assert default['min_score'] == MIN_SCORE


def test_launch_file_imports_nothing_but_launch():
    tree = ast.parse((ROOT / 'launch' / 'pipeline.launch.py').read_text())
    found = {node.module.split('.')[0] for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom)}
    assert found == {'pathlib', 'ament_index_python', 'launch', 'launch_ros'}
    assert any(isinstance(node, ast.FunctionDef) and node.name == 'generate_launch_description'
               for node in tree.body)


def test_rviz_configuration_shows_image_overlay_tf_and_markers():
    values = yaml.safe_load((ROOT / 'config' / 'pipeline.rviz').read_text())
    displays = values['Visualization Manager']['Displays']
    shown = {(one['Class'].rpartition('/')[2], one.get('Topic', {}).get('Value'))
             for one in displays}
    assert {('TF', None), ('MarkerArray', 'object_markers'), ('Image', 'image'),
            ('Image', 'pose_overlay')} <= shown
