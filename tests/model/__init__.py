"""A plain model of the contract, and the machine that compares the scripts with it."""
