import sys
from ros2launch.api import print_arguments_of_launch_file
print_arguments_of_launch_file(launch_file_path=sys.argv[1])
