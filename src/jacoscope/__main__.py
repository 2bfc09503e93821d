"""``python -m jacoscope``."""

import sys

from jacoscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
