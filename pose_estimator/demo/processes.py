"""The demo's processes: ROS nodes in a domain of their own, ended whatever happens."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time

from ..errors import InputError

STOP_SECONDS = 10
NOT_STARTED = 'configuring failed: '  # in a node's log: it lives, but does nothing
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def free_domain():
    """Return a ROS domain that nobody on this machine uses."""
    for domain in random.sample(range(1, 101), 100):  # above lie Linux's ephemeral ports
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
            try:
                trial.bind(('', 7410 + 250 * domain))  # that of the first participant
            except OSError:
                continue
        return domain
    raise InputError('ROS domain: expected a free one of 1 to 100, got none')


def domain_variables(domain):
    """Return the environment variables of a ROS domain that does not leave this machine."""
    local = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    if os.environ.get('ROS_DISTRO') == 'humble':
        local = {'ROS_LOCALHOST_ONLY': '1'}
    # Fast DDS loses every tenth small message over shared memory next to big ones.
    return {'ROS_DOMAIN_ID': str(domain), 'ROS_STATIC_PEERS': '',
            'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4', **local}


class Nodes:
    """
    The demo's processes.

    Parameters
    ----------
    domain : int
        ROS domain.
    log : path
        File for their output.
    camera : str
        Name of the node with whose end the demo ends.

    """

    def __init__(self, domain, log, camera):
        self._camera = camera
        self._environment = {**os.environ, **domain_variables(domain)}
        # Two networks share the cores; threads that wait for one another would halve both.
        self._environment.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // 2)))
        self._log = open(log, 'w+')
        self._children = {}
        self._libc = ctypes.CDLL(None)

    def start(self, name, **parameters):
        """Start a node with parameters."""
        # Every image counts here, so none may be lost between the processes.
        for topic in ('image', 'camera_info'):
            parameters[f'qos_overrides./{topic}.subscription.reliability'] = 'reliable'
        command = [sys.executable, '-m', f'pose_estimator.nodes.{name}', '--ros-args']
        for key, value in parameters.items():
            command += ['-p', f'{key}:={value}']
        self._children[name] = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, preexec_fn=self._die_with_parent)

    def is_playing(self):
        """Return whether the camera still runs; InputError if a node has failed."""
        self._log.seek(0)
        lines = self._log.read().splitlines()
        failed = next((line for line in lines if NOT_STARTED in line), None)
        if failed is not None:
            raise InputError(failed[failed.index(NOT_STARTED):])
        for name, child in self._children.items():
            code = child.poll()
            if code is not None and (code != 0 or name != self._camera):
                errors = [line for line in lines if 'error: ' in line]
                raise InputError(f'{name}: ended with code {code}; '
                                 f'{errors[-1] if errors else "see " + self._log.name}')
        return self._children[self._camera].poll() is None

    def stop(self):
        """End all processes."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        end = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._log.close()

    def _die_with_parent(self):
        """Have the child killed if this process is killed in a way that cannot be caught."""
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
