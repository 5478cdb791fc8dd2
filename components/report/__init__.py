"""Pieces of self-contained HTML for every page the project shows: tables, curves, episodes, lineage.

Plain strings are escaped wherever they enter; nothing here reads files of a run or knows a step.
"""
