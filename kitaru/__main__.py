"""`python -m kitaru` is the `kitaru` command."""

from kitaru.surfaces.cli.main import main

if __name__ == "__main__":
    main()
