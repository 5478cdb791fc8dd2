"""The evaluate step: one table of methods by question sets, with intervals, predictions and a report."""
