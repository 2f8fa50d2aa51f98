"""Stands in for the vendor's wheel on a PC, see rknnlite.api; the real one is in the rehearsal, tests/board."""
