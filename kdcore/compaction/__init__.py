"""Compaction: from weights with zeros in place to a physically smaller model with the same outputs.

`program` runs a model once and writes down its operations; `variation` says which values do not depend on the input;
`couplings` finds, by the `rules` of operations, the least that must be `kept`; `resize` makes the smaller modules;
`check` compares; `saved` writes and reads.
"""
