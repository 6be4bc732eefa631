"""Stacked hourglass: from a crop to keypoints."""
