"""From a search tree to training data: step labels, trajectories and preference pairs. Pure: trees in, values out."""
