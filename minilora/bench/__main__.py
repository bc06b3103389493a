"""`python -m minilora.bench`: see `minilora bench --help`."""

from .command import main

if __name__ == "__main__":
    main()
