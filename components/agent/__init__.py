"""The one search loop: prompt, actions, episodes and rollouts, used by training, evaluation and serving."""
