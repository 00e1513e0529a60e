"""`python -m cnncc`."""

import sys

from cnncc.cli import main

if __name__ == "__main__":
    sys.exit(main())
