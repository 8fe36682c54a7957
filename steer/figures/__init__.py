"""Figures and tables of the report: each reads files of the contract and draws one thing.

A module draws one figure: `table` makes the tidy table of what is drawn, `plot` draws it,
`draw` joins them and saves. `registry` says which files and settings each of them reads.
"""
