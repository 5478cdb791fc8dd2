"""Renders the overlays as kubectl would and says what a cluster, or a careful operator, would refuse."""
