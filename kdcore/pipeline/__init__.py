"""From a checked config to live modules: addresses, captures, terms and the Objective."""
