"""`python -m kar …` is `kar …`."""

from kar.cli import main

if __name__ == "__main__":
    main()
