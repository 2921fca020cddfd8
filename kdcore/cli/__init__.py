"""The command `kd`: one thin file per group of commands; importing them imports nothing heavy."""
