"""The one reader and writer of every file format of the contract."""

CONTRACT_VERSION = 1
