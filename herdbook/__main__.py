"""`python -m herdbook`, where the command itself is not on the path."""

from herdbook.cli import main

if __name__ == "__main__":
    main()
