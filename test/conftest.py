"""What every test shares: real data where it lies, and a DDS domain of the session's own."""

import os
from pathlib import Path
import random

import pytest

# Set before anything imports rclpy: tests neither hear nor disturb another ROS system, nor one
# another when several sessions run on one machine. Domains above 101 clash with Linux's
# ephemeral ports.
DOMAIN_ID = random.SystemRandom().randint(1, 101)
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN_ID)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.pop('ROS_STATIC_PEERS', None)
os.environ.pop('ROS_LOCALHOST_ONLY', None)

ROOT = Path(__file__).resolve().parents[1]
MISSING_DATA = 'real data is missing: '


def data_folder():
    """Return where the real data sets are looked for."""
    return Path(os.environ.get('POSE_ESTIMATOR_DATA') or ROOT.parent / 'shared' / 'data')


def pytest_report_header(config):
    """Record what a failing run needs to be repeated."""
    return f'ROS_DOMAIN_ID={DOMAIN_ID}, real data in {data_folder()}'


@pytest.fixture(scope='session')
def bop_data():
    """Give a function from a data set's name to its folder; it skips the test if missing."""
    def folder(name):
        path = data_folder() / name
        if not path.is_dir():
            pytest.skip(
                f'{MISSING_DATA}{name} is not in {data_folder()} '
                '(set POSE_ESTIMATOR_DATA to the folder that holds it)')
        return path
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Measure models, in this process, on 48 virtual crops of 24 views instead of 1,280 of 384."""
    from dataclasses import replace
    from pose_estimator import landmarks
    from pose_estimator.keypoints import report, train
    import torch
    threads = torch.get_num_threads()
    monkeypatch.setattr(report, 'SAMPLES', 48)
    monkeypatch.setattr(landmarks, 'VIEWS', 12)
    views = train.render_views
    monkeypatch.setattr(train, 'render_views', lambda model, mesh, config, seed, show=True: views(
        model, mesh, replace(config, views=24), seed, show))
    yield
    torch.set_num_threads(threads)  # which a training changes


def pytest_terminal_summary(terminalreporter):
    """List the tests that were skipped because real data was missing."""
    missing = [
        report for report in terminalreporter.stats.get('skipped', [])
        if MISSING_DATA in str(report.longrepr)]
    if missing:
        terminalreporter.section('accuracy not checked: real data missing')
        for report in missing:
            reason = str(report.longrepr[2]).split(MISSING_DATA, 1)[1]
            terminalreporter.write_line(f'{report.nodeid}: {reason}')
