"""``python -m redfloe``."""

import sys

from redfloe._cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
