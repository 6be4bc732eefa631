"""The Makefile's set-up: what it refuses, what it keeps out, and what its locks hold."""

import importlib.util
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / 'requirements').glob('lock-*.txt'))
IN_WHEELS = (Path(sys.prefix) / 'share' / 'tf2_msgs').is_dir()
needs_wheels = pytest.mark.skipif(
    not IN_WHEELS, reason="this Python is not the Makefile's, so there is nothing to look at")


@pytest.fixture
def install():
    """Give the set-up script as a module."""
    spec = importlib.util.spec_from_file_location('install', ROOT / 'requirements' / 'install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(*arguments, **variables):
    """Run make as a user's shell would, with variables added to or replaced in it."""
    return subprocess.run(
        [shutil.which('make'), '--no-print-directory', *arguments], cwd=ROOT,
        env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)


def set_up(folder, **variables):
    """Run the set-up script for a folder."""
    return subprocess.run(
        [sys.executable, ROOT / 'requirements' / 'install.py', folder], cwd=ROOT,
        env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)


def names(path):
    """Return the package names in a requirements file, as pip compares them."""
    lines = path.read_text().splitlines()
    return {
        line.split('==')[0].split('<')[0].split('>')[0].strip().lower().replace('_', '-')
        for line in lines if line.strip() and line[0] not in '#-'}


def test_make_alone_lists_the_targets():
    step = make()
    assert step.returncode == 0
    for target in ('setup', 'demo', 'test', 'test-fast', 'clean'):
        assert f'make {target} ' in step.stdout


def test_make_drops_what_a_sourced_distribution_sets():
    bogus = dict.fromkeys(
        ('PYTHONPATH', 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'COLCON_PREFIX_PATH',
         'LD_LIBRARY_PATH', 'PYTHONHOME'), '/opt/ros/bogus')
    step = make('--eval', 'probe: ; @env', 'probe', RMW_IMPLEMENTATION='rmw_bogus', **bogus)
    assert step.returncode == 0, step.stderr
    assert 'bogus' not in step.stdout


@needs_wheels
def test_a_recipe_runs_ros_in_a_shell_that_sourced_something_else():
    probe = 'probe: ; @$(RUN) -c "import pose_estimator, rclpy, cv2; rclpy.init(); print(7)"'
    step = make(
        '--eval', probe, 'probe', POSE_ESTIMATOR_VENV=sys.prefix, PYTHONPATH='/opt/ros/bogus',
        AMENT_PREFIX_PATH='/opt/ros/bogus', LD_LIBRARY_PATH='/opt/ros/bogus',
        RMW_IMPLEMENTATION='rmw_bogus')
    assert step.stdout.strip() == '7', step.stderr


def test_another_python_is_refused_in_one_line(tmp_path):
    for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\nexit 1\n')
        fake.chmod(0o755)
    step = make('setup', PATH=str(tmp_path), PYTHON='')
    assert step.returncode != 0
    line = step.stderr.splitlines()[0]
    assert line.startswith('error: no Python 3.11 to 3.13')
    assert 'docs/installation.md' in line


def test_another_machine_is_refused(install, monkeypatch):
    monkeypatch.setattr(install.platform, 'machine', lambda: 'aarch64')
    with pytest.raises(install.SetupError, match=r'aarch64.*docs/installation\.md'):
        install.check_platform()


@pytest.mark.parametrize('missing, words', [
    ('cc', 'a C compiler'), ('c++', r'a C\+\+ compiler'), ('cmake', 'cmake is not')])
def test_a_missing_tool_is_named(install, monkeypatch, missing, words):
    monkeypatch.setattr(
        install.shutil, 'which', lambda tool: None if tool == missing else f'/usr/bin/{tool}')
    with pytest.raises(install.SetupError, match=rf'^{words}.*sudo apt install'):
        install.check_tools()


def test_no_compiler_on_the_path_ends_in_one_line(tmp_path):
    step = set_up(tmp_path / 'venv', PATH=str(tmp_path))
    assert step.returncode == 2
    assert step.stderr.count('\n') == 1
    assert step.stderr.startswith('error: a C compiler (cc) is not on the PATH')
    assert not (tmp_path / 'venv').exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').touch()
    step = set_up(tmp_path)
    assert step.returncode == 2
    assert 'was not made by this set-up' in step.stderr
    assert (tmp_path / 'thesis.tex').exists()


@pytest.mark.slow
def test_an_unreachable_index_is_named(install, tmp_path):
    step = set_up(
        tmp_path / 'venv', PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_FIND_LINKS='',
        PIP_EXTRA_INDEX_URL='', PIP_CONFIG_FILE='/dev/null', PIP_NO_CACHE_DIR='1')
    assert step.returncode == 2
    assert step.stderr.splitlines()[-1].startswith('error: the package index does not answer')
    assert json.loads((tmp_path / 'venv' / install.NOTE).read_text()) == {}


@pytest.mark.slow
def test_an_interrupted_set_up_starts_afresh(install, tmp_path, monkeypatch):
    venv = tmp_path / 'venv'
    (venv / 'lib').mkdir(parents=True)
    (venv / 'lib' / 'half').touch()
    install.write_note(venv, {})
    monkeypatch.setattr(install, 'install_packages', lambda python, lock: None)
    monkeypatch.setattr(install.subprocess, 'call', lambda command: 0)
    install.run(venv)
    assert not (venv / 'lib' / 'half').exists()
    assert (venv / 'bin' / 'python').exists()
    assert set(install.read_note(venv)) == {'python', 'location', 'packages', 'messages'}


@pytest.mark.skipif(
    not (Path(sys.prefix) / 'pose_estimator_setup.json').is_file(),
    reason='this Python is not in an environment that make set up')
def test_a_second_run_takes_seconds():
    start = time.monotonic()
    step = make('setup', POSE_ESTIMATOR_VENV=sys.prefix)
    assert step.returncode == 0, step.stderr
    assert step.stdout == ''
    assert time.monotonic() - start < 3.0


def test_there_is_a_lock_for_each_python(install):
    versions = [f'lock-{major}.{minor}.txt' for major, minor in install.PYTHONS]
    assert [lock.name for lock in LOCKS] == versions


@pytest.mark.parametrize('lock', LOCKS, ids=lambda lock: lock.stem)
def test_locks_pin_everything_and_name_no_index(lock):
    lines = [line for line in lock.read_text().splitlines() if line[0] not in '#-']
    assert all(line.count('==') == 1 for line in lines)
    for name in ('core', 'train', 'test', 'ros'):
        assert names(ROOT / 'requirements' / f'{name}.txt') <= names(lock)
    assert 'torch==2.15.0' in lines and 'torchvision==0.29.2' in lines
    text = lock.read_text()
    assert not any(word in text for word in ('://', 'index-url', 'find-links', ' @ '))


@needs_wheels
@pytest.mark.parametrize('package, message, published', [
    ('tf2_msgs', 'TFMessage',
     'RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087'),
    ('vision_msgs', 'Detection3DArray',
     'RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018')])
def test_message_packages_talk_to_other_machines(package, message, published):
    # The hashes that nodes of a Jazzy distribution announce.
    path = Path(sys.prefix) / 'share' / package / 'msg' / f'{message}.json'
    hashes = {
        entry['type_name']: entry['hash_string']
        for entry in json.loads(path.read_text())['type_hashes']}
    assert hashes[f'{package}/msg/{message}'] == published
