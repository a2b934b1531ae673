"""`python -m volpipe`."""

from volpipe.cli import main

if __name__ == "__main__":
    main()
