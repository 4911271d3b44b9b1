"""python -m normwise.cli."""

import sys

from normwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
