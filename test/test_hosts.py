"""Two pipelines on two hosts: network namespaces of this machine, joined by a cable (veth)."""

import os
import shutil
import subprocess
import sys

import pytest
from robot import environment, HERE
from test_consumers import pipeline_arguments

DOMAIN = 7  # nobody else is in these networks
# Between hosts, discovery has to leave the machine.
SUBNET = 'ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET'
CHECK = f'from test_consumers import TwoCameras; TwoCameras({DOMAIN}).check(); print("checked")'

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    os.environ.get('POSE_ESTIMATOR_FAULTS') != 'long', reason='network namespaces: make faults')]


class Host:
    """A network of its own with one end of a cable, while it is open."""

    def __init__(self):
        self.holder = subprocess.Popen(['unshare', '--net', 'sh', '-c', 'echo made; exec cat'],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE)
        self.children = []
        if self.holder.stdout.readline() != b'made\n':
            reason = self.holder.stderr.read().decode().strip()
            self.close()
            pytest.skip(f'network namespaces are not allowed here: {reason}')

    def inside(self, *command):
        """Return a command that runs in this network."""
        return ['nsenter', '--net', '--target', str(self.holder.pid), *map(str, command)]

    def connect(self, address):
        """Set up the end of the cable."""
        for command in (f'addr add {address}/24 dev cable', 'link set cable up', 'link set lo up',
                        'route add 224.0.0.0/4 dev cable'):
            subprocess.run(self.inside('ip', *command.split()), check=True)

    def start(self, *arguments, **options):
        """Start Python in this network."""
        self.children.append(subprocess.Popen(
            self.inside('env', SUBNET, sys.executable, *arguments), env=environment(DOMAIN),
            **options))
        return self.children[-1]

    def close(self):
        """End all that runs in it."""
        for child in [*self.children, self.holder]:
            child.kill()
            child.wait()


def test_two_pipelines_on_two_hosts(record_property):
    for tool in ('unshare', 'nsenter', 'ip'):
        if shutil.which(tool) is None:
            pytest.skip(f'{tool} is not installed')
    hosts = [Host()]
    try:
        hosts.append(Host())
        made = subprocess.run(
            ['ip', 'link', 'add', 'cable', 'netns', str(hosts[0].holder.pid), 'type', 'veth',
             'peer', 'name', 'cable', 'netns', str(hosts[1].holder.pid)],
            capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f'a cable between networks is not allowed here: {made.stderr.strip()}')
        for number, (host, side) in enumerate(zip(hosts, ('left', 'right')), 1):
            host.connect(f'10.77.0.{number}')
            host.start(*pipeline_arguments(side))
        # Both cameras are on the first host: the images of the right one cross the cable.
        check = hosts[0].start('-c', CHECK, cwd=HERE, stdout=subprocess.PIPE, text=True)
        output, _ = check.communicate(timeout=120)
        assert check.returncode == 0 and output.strip() == 'checked'
        record_property('hosts', 'two network namespaces joined by veth')
    finally:
        for host in hosts:
            host.close()
