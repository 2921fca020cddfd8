"""`python -m kdcore` is `kd`."""

import sys

from kdcore.cli.main import main

sys.exit(main())
