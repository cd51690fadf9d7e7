"""``torchrun -m multigen.cli train ...`` starts here."""

from multigen.cli.main import main

if __name__ == "__main__":
    main()
