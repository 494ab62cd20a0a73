"""`python -m cerebsim` is `cerebsim`."""

import sys

from .cli import main

sys.exit(main())
