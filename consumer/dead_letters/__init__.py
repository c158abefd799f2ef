"""Dead letters, from reading them to a decision on each: what the verbs call, and any other view may."""
