"""`python -m cnncc`."""

from cnncc.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
