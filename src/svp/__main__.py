"""``python -m svp``, which is what ``torchrun -m svp`` and ``accelerate launch -m svp`` start."""

import sys

from svp.cli import main

sys.exit(main())
