"""python -m pose_estimator."""

import sys

from .cli import main

sys.exit(main())
