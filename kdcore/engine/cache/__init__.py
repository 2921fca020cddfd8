"""The teacher cache: what a frozen model's addresses yield, stored once per sample and read back."""
