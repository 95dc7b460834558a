"""Side by side, in one run, as ratios: absolute figures belong to a machine, ratios to the code."""
