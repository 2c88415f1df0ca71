"""`python -m hicra`."""

from hicra.cli import run

if __name__ == "__main__":
    run()
