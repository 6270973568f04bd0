"""``python -m hpbench`` is the command line."""

from hpbench.cli import main

if __name__ == "__main__":
    main()
