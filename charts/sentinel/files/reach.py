"""Asks every URL it is given; says what it found, and fails if one does not answer."""

import sys
import urllib.request


def reach(url: str) -> bool:
    """Ask one URL."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            print(f"ok      {url}: HTTP {answer.status}")
            return True
    except OSError as error:
        print(f"broken  {url}: {error}")
        return False


sys.exit(0 if all([reach(url) for url in sys.argv[1:]]) else 1)
